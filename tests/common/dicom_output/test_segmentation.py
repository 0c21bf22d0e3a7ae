"""DICOM SEG, read back by highdicom and compared with the label map and the NIfTI it was made from."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from common.dicom.describe import segment_label

AXIAL = [{"ImagePositionPatient": [10.0, 20.0, z]} for z in (5.0, 8.0, 11.0, 14.0)]


def oblique():
    """Tags of five slices that are tilted about two axes, 2.5 mm apart."""
    across, down = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, -0.8])
    positions = np.array([-12.0, 7.5, 31.0]) + 2.5 * np.arange(5)[:, None] * np.cross(across, down)
    orientation = [*across.tolist(), *down.tolist()]
    return [{"ImagePositionPatient": p.round(6).tolist(), "ImageOrientationPatient": orientation} for p in positions]


def referenced(saved):
    """The slices to which the SEG's frames refer."""
    groups = saved.seg.PerFrameFunctionalGroupsSequence
    sources = [group.DerivationImageSequence[0].SourceImageSequence for group in groups]
    return {item.ReferencedSOPInstanceUID for items in sources for item in items}


@pytest.mark.parametrize("slices", [AXIAL, oblique(), AXIAL[::-1]], ids=["axial", "oblique", "descending"])
@pytest.mark.parametrize("classes", [1, 3])
def test_segmentation_comes_back_voxel_by_voxel_and_in_place(load_series, save, random_labels, slices, classes):
    image = load_series(slices)
    labels = random_labels(image, classes)
    saved = save(image, labels, classes=("a", "b", "c")[:classes])
    assert_array_equal(saved.labels(), labels)
    # Viewers see the volume, in mm, and not the order of files.
    volume = saved.seg.get_volume(combine_segments=True).to_patient_orientation("RAS")
    nifti = nib.as_closest_canonical(saved.nifti)
    assert_array_equal(volume.array, np.asarray(nifti.dataobj))
    assert_allclose(np.diag([-1, -1, 1, 1]) @ volume.affine, nifti.affine, atol=1e-5)
    assert len({tuple(header.ImagePositionPatient) for header in saved.headers}) == len(slices)


def test_only_slices_with_foreground_are_frames(load_series, save):
    image = load_series()
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[2:5, 1, 1:3] = 1
    saved = save(image, labels)
    assert saved.seg.NumberOfFrames == 2
    assert referenced(saved) == {header.SOPInstanceUID for header in saved.headers[1:3]}
    assert_array_equal(saved.labels(), labels)
    (series,) = saved.seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3"
    named = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert named == [header.SOPInstanceUID for header in saved.headers]


def test_empty_segmentation_is_written(load_series, save):
    image = load_series()
    saved = save(image, np.zeros(image.shape[1:], np.uint8))
    assert saved.labels().shape == tuple(image.shape[1:])
    assert not saved.labels().any()
    assert [segment.SegmentLabel for segment in saved.seg.SegmentSequence] == ["organ"]
    assert saved.content()["Out of distribution"] == "No"


def test_absent_class_keeps_its_number_and_its_frames(load_series, save):
    image = load_series()
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[0, 0, 1], labels[3, 2, 2] = 1, 3
    saved = save(image, labels, classes=("a", "b", "c"))
    assert [(int(s.SegmentNumber), s.SegmentLabel) for s in saved.seg.SegmentSequence] == [(1, "a"), (2, "b"), (3, "c")]
    assert_array_equal(saved.labels(), labels)
    groups = saved.seg.PerFrameFunctionalGroupsSequence
    numbers = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups]
    assert sorted(numbers) == [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize(("mark_segments", "end"), [(True, " (OUT OF DISTRIBUTION)"), (False, "")])
def test_segments_say_that_a_scan_is_out_of_distribution(mark_segments, end):
    verdict = {"is_ood": True, "oodm": 0.5, "threshold": 0.25}
    assert segment_label("organ", verdict, mark_segments=mark_segments) == f"organ{end}"
    label = segment_label("hippocampus " * 9, verdict, mark_segments=mark_segments)
    assert label.endswith(end or "..")
    assert len(label) <= 64
    for result in ({"is_ood": False}, {"is_ood": None}, {}):
        assert segment_label("organ", result, mark_segments=mark_segments) == "organ"


def test_segments_are_described_by_the_verdict(load_series, save, random_labels):
    image = load_series()
    (segment,) = save(image, random_labels(image, 1)).seg.SegmentSequence
    assert segment.SegmentDescription.startswith("in distribution, OODM ")


def test_segments_carry_codes_and_algorithm(load_series, save, random_labels):
    image = load_series()
    codes = {"2": {"category": ["49755003", "SCT", "Lesion"], "type": ["108369006", "SCT", "Neoplasm"]}}
    saved = save(image, random_labels(image, 2), classes=("organ", "t\u00fcmor"), dicom_codes=codes)
    first, second = saved.seg.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("organ", "t?mor")
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"
    assert {segment.SegmentAlgorithmType for segment in (first, second)} == {"AUTOMATIC"}
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Toy segmentation", "0.1.0")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert (saved.seg.SegmentationType, saved.seg.ContentQualification) == ("BINARY", "RESEARCH")
    assert saved.seg.ContentDescription == "Research software. Not for clinical use."


def test_missing_frame_of_reference_is_the_same_in_every_file(load_series, save, random_labels):
    image = load_series()
    first, second = (save(image, random_labels(image)).seg for _ in range(2))
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    image = load_series(FrameOfReferenceUID="1.2.3.99")
    assert save(image, random_labels(image)).seg.FrameOfReferenceUID == "1.2.3.99"


def test_thickness_is_the_scanners_and_spacing_is_measured(load_series, save, random_labels):
    image = load_series(SliceThickness=2.0, SpacingBetweenSlices=-7.0)
    seg = save(image, random_labels(image)).seg
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2, 3)
    assert list(measures.PixelSpacing) == [0.7, 0.5]


def test_orientations_that_differ_in_the_last_digits_are_one(load_series, save, random_labels):
    slices = [{"ImageOrientationPatient": [1, 1e-5 * k, 0, 0, 1, 0]} for k in range(4)]
    image = load_series(slices)
    labels = random_labels(image)
    assert_array_equal(save(image, labels).labels(), labels)

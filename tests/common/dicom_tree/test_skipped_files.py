"""Files of a tree that are no slices: each is skipped with a reason, and the good series stays whole."""

import os
import shutil

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedMRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from common.data import scans_to_segment
from common.dicom.series import series_name

NO_GEOMETRY = "image without ImagePositionPatient and ImageOrientationPatient"
TRUNCATED = "no pixel data (CT Image); the file may be truncated: copy it again"
EMPTY = "empty file; it may be truncated: copy it again"
COPY = "copy of another file"
FLAT = {"ImagePositionPatient": ..., "ImageOrientationPatient": ...}
SKIPPED = {
    "text file": (
        lambda x: (x.root / "odd.txt").write_text("no DICOM"),
        {"odd.txt": "neither DICOM nor a file that ends as an image does"},
    ),
    "empty file": (lambda x: (x.root / "odd").touch(), {"odd": EMPTY}),
    "table of contents": (lambda x: x.put("DICOMDIR", MediaStorageDirectoryStorage), {"DICOMDIR": "DICOMDIR"}),
    "report": (lambda x: x.put("good/sr", ComprehensiveSRStorage), {"good/sr": "no pixel data (Comprehensive SR)"}),
    "contours": (
        lambda x: x.put("rt/plan", RTStructureSetStorage),
        {"rt/plan": "no pixel data (RT Structure Set)"},
    ),
    "presentation state": (
        lambda x: x.put("gsps", GrayscaleSoftcopyPresentationStateStorage),
        {"gsps": "no pixel data (Grayscale Softcopy Presentation State)"},
    ),
    "document": (lambda x: x.put("pdf", EncapsulatedPDFStorage), {"pdf": "no pixel data (Encapsulated PDF)"}),
    "key objects": (
        lambda x: x.put("ko", KeyObjectSelectionDocumentStorage),
        {"ko": "no pixel data (Key Object Selection Document)"},
    ),
    "object of a vendor": (lambda x: x.put("raw", "1.3.12.2.1107.5.9.1"), {"raw": "no pixel data (unknown kind)"}),
    "segmentation": (
        lambda x: x.image("seg", kind=SegmentationStorage, SharedFunctionalGroupsSequence=[Dataset()], **FLAT),
        {"seg": "multi-frame object (Segmentation); export it as one file per slice"},
    ),
    "parametric map": (
        lambda x: x.image("map", kind=ParametricMapStorage, SharedFunctionalGroupsSequence=[Dataset()], **FLAT),
        {"map": "multi-frame object (Parametric Map); export it as one file per slice"},
    ),
    "enhanced image": (
        lambda x: x.image("multi", kind=EnhancedMRImageStorage, NumberOfFrames=3, PixelData=bytes(3 * 48)),
        {"multi": "multi-frame object (Enhanced MR Image); export it as one file per slice"},
    ),
    "screenshot": (
        lambda x: x.image("shot", kind=SecondaryCaptureImageStorage, **FLAT),
        {"shot": f"{NO_GEOMETRY} (Secondary Capture Image)"},
    ),
    "screenshot within the series": (
        lambda x: x.image("good/shot", series=x.GOOD, kind=SecondaryCaptureImageStorage, **FLAT),
        {"good/shot": f"{NO_GEOMETRY} (Secondary Capture Image)"},
    ),
    "image without orientation": (
        lambda x: x.image("odd", ImageOrientationPatient=None),
        {"odd": f"{NO_GEOMETRY} (CT Image)"},
    ),
    "color image": (
        lambda x: x.image("rgb", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        {"rgb": "color image"},
    ),
    "palette image": (
        lambda x: x.image("palette", PhotometricInterpretation="PALETTE COLOR"),
        {"palette": "color image"},
    ),
    "localizer within the series": (
        lambda x: x.image("good/scout", z=99, series=x.GOOD, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        {"good/scout": "localizer"},
    ),
    "copy of a slice": (lambda x: shutil.copy(x.root / "good/1", x.root / "good/1_copy"), {"good/1_copy": COPY}),
    "copy of a slice in another folder": (
        lambda x: shutil.copytree(x.root / "good", x.root / "too"),
        {f"too/{index}": COPY for index in range(4)},
    ),
    "copy of a slice with another header": (
        lambda x: x.image(
            "good/1_later", 8, x.GOOD, SOPInstanceUID=x.instance(x.root / "good/1"), StudyDescription="x"
        ),
        {"good/1_later": COPY},
    ),
    "image without a series": (
        lambda x: x.image("odd", SeriesInstanceUID=...),
        {"odd": "image without SeriesInstanceUID"},
    ),
    "truncated before its series": (lambda x: x.cut_before(x.image("odd"), x.SERIES_TAG), {"odd": TRUNCATED}),
    "truncated before its pixels": (lambda x: x.cut_before(x.image("odd"), x.PIXEL_TAG), {"odd": TRUNCATED}),
    "only the begin of a file": (
        lambda x: (x.root / "odd").write_bytes((x.root / "good" / "0").read_bytes()[:140]),
        {"odd": "header cannot be read; the file may be truncated: copy it again"},
    ),
    "link to a missing file": (
        lambda x: x.link("odd", "nowhere"),
        {"odd": "no regular file, or a link to a missing one"},
    ),
    "pipe": (lambda x: os.mkfifo(x.root / "odd"), {"odd": "no regular file, or a link to a missing one"}),
    "linked folder": (lambda x: x.link("odd", x.root / "good"), {"odd": "link to a folder, which is not followed"}),
}


@pytest.mark.parametrize(("spoil", "skipped"), SKIPPED.values(), ids=SKIPPED)
@pytest.mark.tried(
    "DICOM",
    "Reports, localizers, presentation states and other objects",
    "A line with the reason; the series are segmented.",
)
def test_object_is_skipped_with_the_reason_and_costs_no_series(export, listing, load, tmp_path, spoil, skipped):
    spoil(export)
    (case,) = scans_to_segment(str(export.root), str(tmp_path / "out"), list_paths=True)
    assert listing(tmp_path / "out") == {
        "series": [
            {
                "case": series_name(export.GOOD),
                "series_instance_uid": export.GOOD,
                "study_instance_uid": "1.2",
                "modality": "CT",
                "folder": "good",
                "files": 4,
            }
        ],
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped.items()],
    }
    assert [load(case)[0, 0, 0, k] for k in range(4)] == [100 * z for z in export.POSITIONS]

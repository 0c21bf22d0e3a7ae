"""What a bundle's metadata tell about it and its segments."""

import pytest

from common.dicom.describe import describe_bundle
from common.errors import ConfigError, MissingDataError


def test_metadata_tell_bundle_and_segments(metadata_file):
    codes = {"1": {"type": ["5366008", "SCT", "Hippocampus"]}}
    described = describe_bundle(metadata_file(("a", "b"), dicom_codes=codes))
    assert (described.name, described.title, described.version) == ("toy_ood", "Toy segmentation", "0.1.0")
    assert [(segment.number, segment.label) for segment in described.segments] == [(1, "a"), (2, "b")]
    assert [segment.kind[2] for segment in described.segments] == ["Hippocampus", "Tissue"]


def test_weights_of_other_classes_have_their_own_names_and_no_code_of_another(metadata_file):
    codes = {"1": {"type": ["5366008", "SCT", "Hippocampus"]}, "2": {"type": ["1", "SCT", "Other"]}}
    described = describe_bundle(metadata_file(("a", "b"), dicom_codes=codes), {"1": "a", "2": "x", "3": "y"})
    assert [segment.label for segment in described.segments] == ["a", "x", "y"]
    assert described.title == "Segmentation of a, x, y"
    many = {str(index): f"organ {index}" for index in range(1, 9)}
    assert describe_bundle(metadata_file(("a",)), many).title == "Segmentation of 8 classes"
    assert [segment.kind[2] for segment in described.segments] == ["Hippocampus", "Tissue", "Tissue"]
    unnamed = describe_bundle(metadata_file(("a",), dicom_codes=codes), {"1": "class 1"})
    assert (unnamed.title, unnamed.segments[0].kind[2]) == ("Segmentation of 1 unnamed class(es)", "Tissue")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"dicom_codes": {"1": {"type": ["5366008", "Hippocampus"]}}},
            r"metadata\.json does not describe .*ValueError",
        ),
        ({"dicom_codes": {"1": {"type": [5366008, "SCT", "Hippocampus"]}}}, "is no code"),
        ({"dicom_codes": ["5366008"]}, "does not describe the segments"),
        ({"network_data_format": {}}, "KeyError: 'outputs'"),
        ({"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "a", "2": "b"}}}}}, r"classes \[2\]"),
        ({"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "a"}}}}}, r"classes \[\]"),
    ],
)
def test_metadata_that_describe_no_segments_are_named(metadata_file, more, text):
    with pytest.raises(ConfigError, match=text):
        describe_bundle(metadata_file(**more))


def test_missing_metadata_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"absent\.json does not exist"):
        describe_bundle(tmp_path / "absent.json")

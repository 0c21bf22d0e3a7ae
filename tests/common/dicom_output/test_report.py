"""The verdict in the DICOM report, digit by digit, and in the descriptions of the series."""

import pytest

from common.dicom.describe import BundleDescription, Segment, series_description, verdict_sentence

INSIDE = {"oodm": 0.012345678901234567, "threshold": 0.0456, "is_ood": False, "reason": None}
OUTSIDE = {"oodm": 1.5, "threshold": 0.0456, "is_ood": True, "reason": None}
UNKNOWN = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no signature bank; fit one"}


@pytest.mark.parametrize(
    ("result", "text", "word"),
    [
        (INSIDE, "in distribution, OODM 0.01235 (limit 0.0456): toy_ood 0.1.0", "in distribution"),
        (OUTSIDE, "OUT OF DISTRIBUTION, OODM 1.5 (limit 0.0456): toy_ood 0.1.0", "OUT OF DISTRIBUTION"),
        (UNKNOWN, "NO VERDICT: toy_ood 0.1.0", "NO VERDICT"),
        (None, "NO VERDICT: toy_ood 0.1.0", "NO VERDICT"),
    ],
)
def test_series_descriptions_carry_the_verdict(load_series, save, random_labels, result, text, word):
    image = load_series()
    saved = save(image, random_labels(image), result)
    assert saved.seg.SeriesDescription == text
    assert saved.report.SeriesDescription == f"{word}, report: toy_ood 0.1.0"


@pytest.mark.parametrize(("result", "answer"), [(INSIDE, "No"), (OUTSIDE, "Yes")])
def test_report_holds_the_verdict_digit_by_digit(load_series, save, random_labels, result, answer):
    image = load_series()
    content = save(image, random_labels(image), result).content()
    assert content["Out-of-distribution measure (OODM)"] == result["oodm"]
    assert content["Threshold of the OODM"] == result["threshold"]
    assert content["Out of distribution"] == answer
    assert content["Conclusion"].startswith(f"{verdict_sentence(result)}. The OODM ")
    assert content["Comment"] == "Research software. Not for clinical use."
    assert content["Algorithm Name"] == "Toy segmentation (toy_ood)"
    assert content["Algorithm Version"] == "0.1.0"
    assert content["Source series for segmentation"] == "1.2.3"
    assert "Reason why there is no verdict" not in content


def test_report_holds_what_else_the_verdict_tells(load_series, save, random_labels):
    image = load_series()
    more = {"p_value": 0.05, "expected_dice": 0.9, "expected_dice_low": 0.75, "reasons": "noise 0.1, training 0.02"}
    content = save(image, random_labels(image), INSIDE | more).content()
    assert content["Conformal p-value"] == 0.05
    assert content["Expected Dice"] == 0.9
    assert content["Lower bound of the expected Dice"] == 0.75
    assert content["Differences from the training scans"] == "noise 0.1, training 0.02"
    without = save(image, random_labels(image), INSIDE | dict.fromkeys(more)).content()
    assert not {"Conformal p-value", "Expected Dice", "Differences from the training scans"} & set(without)


@pytest.mark.parametrize(
    ("result", "reason"), [(UNKNOWN, "no signature bank; fit one"), (None, "no signature was computed")]
)
def test_report_without_a_verdict_tells_why(load_series, save, random_labels, result, reason):
    image = load_series()
    content = save(image, random_labels(image), result).content()
    assert content["Reason why there is no verdict"] == reason
    assert content["Out of distribution"] == "Indeterminate"
    assert content["Conclusion"].startswith("NO VERDICT. ")
    assert not [name for name in content if "OODM" in name]


def test_report_refers_to_series_and_segmentation(load_series, save, random_labels):
    image = load_series()
    saved = save(image, random_labels(image))
    slices = {("1.2", "1.2.3", header.SOPInstanceUID) for header in saved.headers}
    made = ("1.2", saved.seg.SeriesInstanceUID, saved.seg.SOPInstanceUID)
    assert {item[:3] for item in saved.report.get_evidence()} == slices | {made}
    (shown,) = [item for item in saved.report.content[0].ContentSequence if item.value_type.value == "IMAGE"]
    assert shown.referenced_sop_instance_uid == saved.seg.SOPInstanceUID
    assert (saved.report.VerificationFlag, saved.report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def bundle_called(name, version="0.1.0"):
    return BundleDescription(name, "Title", version, "Authors", (Segment(1, "organ"),))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spectral_ood", "OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456): spectral_ood"),
        ("a" * 9, f"OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456): {'a' * 9} 0.1.0"),
        ("b" * 16, f"OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456): {'b' * 16}"),
        ("c" * 17, f"OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456): {'c' * 14}.."),
    ],
)
def test_long_names_give_way_to_the_verdict(name, text):
    verdict = verdict_sentence({"oodm": 1.234, "threshold": 0.0456, "is_ood": True})
    assert series_description(bundle_called(name), verdict) == text


@pytest.mark.parametrize("number", [0.0, 1e-300, 0.99999, 123456789.0])
@pytest.mark.parametrize("is_ood", [True, False, None])
def test_series_description_never_cuts_the_verdict(number, is_ood):
    for length in (*range(1, 70), 300):
        verdict = verdict_sentence({"oodm": number, "threshold": number, "is_ood": is_ood})
        for version in ("0.1.0", "1.22.333-beta+build.7777"):
            text = series_description(bundle_called(("n\u00e4me\\" * length)[:length], version), verdict)
            assert text.startswith(f"{verdict}: ")
            assert len(text) <= 64
            assert text.isascii()
            assert "\\" not in text

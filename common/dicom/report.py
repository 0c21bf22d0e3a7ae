"""Builds the report: the verdict as a DICOM structured report, whose items viewers show as lines of name and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.uid import generate_uid

from .describe import NOTICE, BundleDescription, plain_text, series_description, verdict_sentence, verdict_word
from .segmentation import equipment
from .source import SourceSeries

REPORT_SERIES = 9002
"""SeriesNumber of reports, next to the segmentations."""

SCHEME = "99OODBUNDLES"
"""Coding scheme of the names that no public one has; DICOM reserves 99 at the start for private schemes."""

REPORT = ("report", "Segmentation and out-of-distribution report")
IS_OOD = ("is_ood", "Out of distribution")
OODM = ("oodm", "Out-of-distribution measure (OODM)")
THRESHOLD = ("threshold", "Threshold of the OODM")
REASON = ("reason", "Reason why there is no verdict")
P_VALUE = ("p_value", "Conformal p-value")
EXPECTED = ("expected_dice", "Expected Dice")
EXPECTED_LOW = ("expected_dice_low", "Lower bound of the expected Dice")
DIFFERENCES = ("reasons", "Differences from the training scans")

MEANING = {
    "NO VERDICT": "The scan was segmented, but not compared with the training data.",
    "OUT OF DISTRIBUTION": "The OODM exceeds the threshold: the scan is unlike the training data, and the segmentation "
    "must not be trusted.",
    "in distribution": "The OODM does not exceed the threshold: the scan is like the training data. That is no proof "
    "of a correct segmentation.",
}


def build_report(segmentation: Any, source: SourceSeries, bundle: BundleDescription, result: Mapping[str, Any]) -> Any:
    """Returns an Enhanced SR of the verdict, with the source series and its segmentation as evidence.

    Args:
        segmentation: DICOM SEG that the report refers to.
        source: Series that was segmented.
        bundle: Description of the bundle that segmented it.
        result: Verdict, as ``SpectralVerdictd`` gives it; what it does not hold, or holds as ``None``, is left out.
    """
    from highdicom import UID
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import ContainerContentItem, ContentSequence, EnhancedSR

    root = ContainerContentItem(name=_private(REPORT), is_content_continuous=False)
    root.ContentSequence = ContentSequence([*_context(bundle), *_content(segmentation, source, bundle, result)])
    report = EnhancedSR(
        evidence=[*source.headers, segmentation],
        content=root,
        series_instance_uid=UID(),
        series_number=REPORT_SERIES,
        sop_instance_uid=UID(),
        instance_number=1,
        is_complete=True,
        series_description=series_description(bundle, f"{verdict_word(result)}, report"),
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="Codes of out-of-distribution bundles")],
        specific_character_set=None,
        **equipment(bundle),
    )
    source.identify(report)
    return report


def _context(bundle: BundleDescription) -> list[Any]:
    """Who observed, and in which language."""
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        LanguageOfContentItemAndDescendants,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    made = equipment(bundle)
    observer = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[bundle.name, bundle.version]),
        name=made["device_serial_number"],
        manufacturer_name=made["manufacturer"],
        model_name=made["manufacturer_model_name"],
    )
    return [
        *LanguageOfContentItemAndDescendants(CodedConcept("en", "RFC5646", "English")),
        *ObserverContext(CodedConcept.from_code(codes.DCM.Device), observer),
    ]


def _content(
    segmentation: Any, source: SourceSeries, bundle: BundleDescription, result: Mapping[str, Any]
) -> list[Any]:
    """What the report says, most important first."""
    from highdicom.sr import (
        CodeContentItem,
        ImageContentItem,
        NumContentItem,
        RelationshipTypeValues,
        TextContentItem,
        UIDRefContentItem,
    )
    from pydicom.sr.codedict import codes

    contains: dict[str, Any] = {"relationship_type": RelationshipTypeValues.CONTAINS}
    word = verdict_word(result)
    answer = {"NO VERDICT": codes.SCT.Indeterminate, "OUT OF DISTRIBUTION": codes.SCT.Yes}.get(word, codes.SCT.No)
    items = [
        TextContentItem(codes.DCM.Comment, NOTICE, **contains),
        TextContentItem(codes.DCM.Conclusion, f"{verdict_sentence(result)}. {MEANING[word]}", **contains),
        CodeContentItem(_private(IS_OOD), answer, **contains),
    ]
    if word == "NO VERDICT":
        reason = str(result.get("reason") or "no signature was computed")
        items.append(TextContentItem(_private(REASON), plain_text(reason, len(reason)), **contains))
    else:
        items += [
            NumContentItem(_private(name), float(result[name[0]]), codes.UCUM.NoUnits, **contains)
            for name in (OODM, THRESHOLD, P_VALUE, EXPECTED, EXPECTED_LOW)
            if result.get(name[0]) is not None
        ]
        reasons = str(result.get("reasons") or "")
        if reasons:
            items.append(TextContentItem(_private(DIFFERENCES), plain_text(reasons, len(reasons)), **contains))
    return [
        *items,
        TextContentItem(codes.DCM.AlgorithmName, f"{plain_text(bundle.title)} ({plain_text(bundle.name)})", **contains),
        TextContentItem(codes.DCM.AlgorithmVersion, plain_text(bundle.version), **contains),
        UIDRefContentItem(codes.DCM.SourceSeriesForSegmentation, source.original.SeriesInstanceUID, **contains),
        ImageContentItem(
            codes.DCM.SegmentationResult, segmentation.SOPClassUID, segmentation.SOPInstanceUID, **contains
        ),
    ]


def _private(concept: tuple[str, str]) -> Any:
    """A code of our own scheme."""
    from highdicom.sr import CodedConcept

    return CodedConcept(concept[0], SCHEME, concept[1])

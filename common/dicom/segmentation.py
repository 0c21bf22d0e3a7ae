"""Builds the DICOM segmentation: a binary segment for every class, in the frames of the source series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .describe import (
    NOTICE,
    BundleDescription,
    Segment,
    plain_text,
    segment_label,
    series_description,
    verdict_sentence,
)
from .source import SourceSeries

SEGMENTATION_SERIES = 9001
"""SeriesNumber of segmentations: high, so that viewers list them after what a scanner made."""


def equipment(bundle: BundleDescription) -> dict[str, Any]:
    """Returns how highdicom takes the software that made a file."""
    return {
        "manufacturer": plain_text(bundle.authors),
        "manufacturer_model_name": plain_text(bundle.title),
        "software_versions": plain_text(bundle.version),
        "device_serial_number": plain_text(f"{bundle.name} {bundle.version}"),
    }


def build_segmentation(
    labels: NDArray[np.uint8],
    source: SourceSeries,
    bundle: BundleDescription,
    result: Mapping[str, Any],
    *,
    mark_segments: bool = True,
) -> Any:
    """Returns a DICOM SEG of a label map; the verdict is its series description, and that of every segment.

    Every class is a segment of the same number, also a class that was not found. Frames without foreground are left
    out, unless a class is absent: then all are kept, since viewers stumble over a segment that has no frame.

    Args:
        labels: Class indices ``(slices, rows, columns)``, in the order of the source's headers.
        source: Series that was segmented.
        bundle: Description of the bundle that segmented it.
        result: Verdict with ``oodm``, ``threshold`` and ``is_ood``, as ``SpectralVerdictd`` gives it.
        mark_segments: Whether the labels of segments say so where the scan is out of distribution. Default true.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues

    found = set(np.unique(labels).tolist())
    segmentation = Segmentation(
        source_images=source.headers,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(segment, bundle, result, mark_segments) for segment in bundle.segments],
        series_instance_uid=UID(),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=UID(),
        instance_number=1,
        omit_empty_frames=all(segment.number in found for segment in bundle.segments),
        content_label="SEGMENTATION",
        content_description=NOTICE,
        content_qualification="RESEARCH",
        series_description=series_description(bundle, verdict_sentence(result)),
        specific_character_set=None,
        **equipment(bundle),
    )
    source.identify(segmentation)
    return segmentation


def _describe(segment: Segment, bundle: BundleDescription, result: Mapping[str, Any], mark_segments: bool) -> Any:
    """The highdicom description of a segment, with the verdict in words."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    described = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment_label(segment.label, result, mark_segments=mark_segments),
        segmented_property_category=Code(*segment.category),
        segmented_property_type=Code(*segment.kind),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=plain_text(bundle.title), family=codes.cid7162.ArtificialIntelligence, version=bundle.version
        ),
    )
    described.SegmentDescription = f"{verdict_sentence(result)}. {NOTICE}"
    return described

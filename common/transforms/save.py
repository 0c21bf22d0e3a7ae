"""Writing of segmentations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelWriter, PILWriter
from monai.transforms import SaveImaged

from ..dicom_output import check_dicom_output, write_dicom
from ..errors import ConfigError
from ..files import write_atomically
from .scan import scan_name

OutputFormat = Literal["nifti", "dicom_seg"]


class SaveSegmentationd(SaveImaged):
    """Writes ``output_dir/<case>/<case>_seg.nii.gz`` (a picture's as ``.png``) in the geometry of the input.

    With ``output_format="dicom_seg"`` a DICOM series also gets ``<case>_seg.dcm``, a DICOM SEG that refers to it, and
    ``<case>_report.dcm``, a structured report of the verdict in ``result``. A file appears under its name only when it
    is complete. MONAI Label leaves every ``SaveImaged`` out, as it writes results itself.

    Args:
        keys: keys of the class indices, ``(1, H, W[, D])``.
        output_dir: folder of the results.
        spatial_dims: 3 writes NIfTI, 2 writes PNG.
        output_format: ``nifti``, or ``dicom_seg`` for DICOM beside the NIfTI, which needs the package highdicom.
        metadata_file: the bundle's ``configs/metadata.json``, after which DICOM files name segments and bundle.

    Raises:
        ConfigError: when the format is unknown, or ``dicom_seg`` impossible.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        spatial_dims: int = 3,
        output_format: OutputFormat = "nifti",
        metadata_file: str | None = None,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        if output_format not in get_args(OutputFormat):
            raise ConfigError(f"output_format is {output_format!r}; accepted are {', '.join(get_args(OutputFormat))}")
        self.output_dir = Path(output_dir)
        self.spatial_dims = spatial_dims
        self.bundle = check_dicom_output(spatial_dims, metadata_file) if output_format == "dicom_seg" else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` unchanged, after writing.

        Raises:
            OutputError: when a file cannot be written.
            ImageError: when DICOM is asked for and the input was no DICOM series; the NIfTI is written all the same.
        """
        case = str(data["case"])
        stem = self.output_dir / case / case
        for key in self.key_iterator(dict(data)):
            self._write_image(data[key], stem)
            if self.bundle is not None:
                result = data.get("result") or {}
                write_dicom(data[key], data.get("image"), result, self.bundle, stem, scan_name(data))
        return dict(data)

    def _write_image(self, segmentation: MetaTensor, stem: Path) -> None:
        """Writes one segmentation as NIfTI or PNG."""
        suffix, writer_class = (".nii.gz", NibabelWriter) if self.spatial_dims == 3 else (".png", PILWriter)
        # A picture holds class indices as they are, not stretched to the range of gray values.
        settings = {} if self.spatial_dims == 3 else {"scale": None}
        writer = writer_class(output_dtype=np.uint8, **settings)
        writer.set_data_array(segmentation, channel_dim=0)
        writer.set_metadata(segmentation.meta, resample=True)
        with write_atomically(stem.with_name(f"{stem.name}_seg{suffix}")) as temporary:
            writer.write(str(temporary))

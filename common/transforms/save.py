"""Writing of segmentations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import NibabelWriter, PILWriter
from monai.transforms import SaveImaged

from ..files import write_atomically


class SaveSegmentationd(SaveImaged):
    """Writes ``output_dir/<case>/<case>_seg.nii.gz`` (a picture's as ``.png``) in the geometry of the input.

    A file appears under its name only when it is complete. MONAI Label leaves every ``SaveImaged`` out, as it writes
    results itself.

    Args:
        keys: keys of the class indices, ``(1, H, W[, D])``.
        output_dir: folder of the results.
        spatial_dims: 3 writes NIfTI, 2 writes PNG.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, spatial_dims: int = 3) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir = Path(output_dir)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` unchanged, after writing.

        Raises:
            OutputError: when the file cannot be written.
        """
        suffix, writer_class = (".nii.gz", NibabelWriter) if self.spatial_dims == 3 else (".png", PILWriter)
        for key in self.key_iterator(dict(data)):
            segmentation = data[key]
            case = str(data["case"])
            # A picture holds class indices as they are, not stretched to the range of gray values.
            settings = {} if self.spatial_dims == 3 else {"scale": None}
            writer = writer_class(output_dtype=np.uint8, **settings)
            writer.set_data_array(segmentation, channel_dim=0)
            writer.set_metadata(segmentation.meta, resample=True)
            with write_atomically(self.output_dir / case / f"{case}_seg{suffix}") as temporary:
                writer.write(str(temporary))
        return dict(data)

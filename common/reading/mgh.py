"""Reads FreeSurfer's ``.mgz`` with its checksum verified."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader

from .limits import MAX_VOXELS, check_affine, check_size, damaged
from .stream import CHUNK, DAMAGE, opened, read_exactly

HEADER_BYTES = 284
"""Bytes in front of the voxels."""

ITEM_BYTES = {0: 1, 1: 4, 3: 4, 4: 2}
"""Code of the type of numbers -> bytes of each."""

MAX_FOOTER = 2**24
"""Most bytes after the voxels, where FreeSurfer keeps how the image was made."""


class MghReader(NibabelReader):
    """MONAI's reader for one ``.mgz`` file, with the checks it lacks.

    Args:
        max_voxels: Most voxels that a header may declare, at least 1; 500 million by default.
    """

    def __init__(self, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Any, **_kwargs: Any) -> Any:
        """Returns the nibabel image of one file.

        Args:
            data: Path of the file, alone or in a sequence of one.
            **_kwargs: Options of other readers, which are not used here.

        Raises:
            ImageError: When the file is damaged, declares too many voxels, or its geometry is not valid. The message
                goes on after the name of the image.
        """
        (path,) = (data,) if isinstance(data, str | Path) else tuple(data)
        self.filenames = [str(path)]
        try:
            with opened(path) as stream:
                head = read_exactly(stream, HEADER_BYTES).tobytes()
                version, *shape, code = np.frombuffer(head, dtype=">i4", count=6).tolist()
                if version != 1 or code not in ITEM_BYTES:
                    raise damaged("it is no image of FreeSurfer")
                check_size(shape, self.max_voxels)
                voxels = read_exactly(stream, math.prod(shape) * ITEM_BYTES[code]).tobytes()
                footer = b""
                # To be at the end is what makes gzip compare checksum and length.
                while len(footer) <= MAX_FOOTER and (part := stream.read(CHUNK)):
                    footer += part
        except DAMAGE as error:
            raise damaged("its compressed content is not what was written") from error
        if len(footer) > MAX_FOOTER:
            raise damaged("it holds more than its header declares")
        image = nib.MGHImage.from_bytes(head + voxels + footer)
        check_affine(image.affine)
        return image

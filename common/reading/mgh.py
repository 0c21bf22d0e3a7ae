"""Reads FreeSurfer's ``.mgz`` with its checksum verified."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader

from .file_reader import FileReader
from .limits import check_affine, check_size, damaged
from .stream import CHUNK, DAMAGE, opened, read_exactly

HEADER_BYTES = 284
"""Bytes in front of the voxels."""

ITEM_BYTES = {0: 1, 1: 4, 3: 4, 4: 2}
"""Code of the type of numbers -> bytes of each."""

MAX_FOOTER = 2**24
"""Most bytes after the voxels, where FreeSurfer keeps how the image was made."""


class MghReader(FileReader, NibabelReader):
    """MONAI's reader for one ``.mgz`` file, with the checks it lacks."""

    def read_file(self, path: str | Path, **_kwargs: Any) -> Any:
        """Returns the nibabel image of a file.

        Args:
            path: Path of the file.
            **_kwargs: Options of other readers, which are not used here.

        Raises:
            ImageError: When the file is damaged, declares too many voxels, or its geometry is not valid. The message
                goes on after the name of the image.
        """
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

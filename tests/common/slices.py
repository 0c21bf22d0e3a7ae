"""Volumes and pictures for the tests of slices."""

import nibabel as nib
import numpy as np
from PIL import Image

OBLIQUE = np.array([[0, -0.8, 0, 12], [-1.2, 0, 0, 7], [0, 0, -3, 3.5], [0, 0, 0, 1.0]])


def write_volume(path, shape=(12, 10, 6), seed=0, channels=None, affine=OBLIQUE):
    """A volume whose first and last slices are empty, with a label in two slices; as a case."""
    rng = np.random.default_rng(seed)
    size = shape if channels is None else (*shape, channels)
    image = rng.uniform(10, 200, size).astype(np.float32)
    image[:, :, [0, -1]] = 0
    label = np.zeros(shape, dtype=np.uint8)
    label[3:7, 2:6, 2:4] = 1
    path.mkdir(parents=True, exist_ok=True)
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), path / f"{name}.nii.gz")
    return {"image": str(path / "image.nii.gz"), "label": str(path / "label.nii.gz"), "case": path.name}


def write_picture(path, array, label=None, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(f"{path}.png")
    case = {"image": f"{path}.png", "case": path.name, **keys}
    if label is not None:
        Image.fromarray(np.asarray(label, dtype=np.uint8)).save(f"{path}_label.png")
        case["label"] = f"{path}_label.png"
    return case


def picture(value, size=(16, 16)):
    array = np.zeros((*size, 3))
    array[4:12, 4:12] = value
    return array

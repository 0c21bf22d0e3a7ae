"""Slices of patients for tests, and the settings that make their trainings short."""

import json

import nibabel as nib
import numpy as np
import torch
from PIL import Image

BUNDLE = "denoising_pretrain"


SHORT = {
    "max_epochs": 1,
    "pretrain_epochs": 1,
    "batch_size": 4,
    "samples_per_epoch": 8,
    "learning_rate": 0.01,
    "pretrain_rate": 0.01,
    "roi_size": [32, 32],
    "healthy": "labels",
    "min_component_size": 2,
}
PATIENTS = 5
SLICES = 4


def draw(patient, number, size=(40, 36)):
    """A disc in three channels; inner slices have a bright spot, which the label holds."""
    rng = np.random.default_rng([patient, number])
    x, y = np.mgrid[: size[0], : size[1]]
    disc = (x - 20) ** 2 + (y - 18) ** 2 < 200
    label = ((x - 16 - patient) ** 2 + (y - 18) ** 2 < 12) & (number in (1, 2))
    image = (
        (disc * 90)[..., None]
        + label[..., None] * np.array([0, 80, 30])
        + rng.normal(0, 4, (*size, 3)) * disc[..., None]
    )
    return image.clip(0, 255).astype(np.uint8), label.astype(np.uint8)


def write_slices(folder, *, edit=None, patients=PATIENTS):
    """A folder in the layout of the 2-D sets; ``edit(patient, number, image, label)`` may change both."""
    items = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for patient in range(patients):
        for number in range(SLICES):
            image, label = draw(patient, number)
            if edit:
                image, label = edit(patient, number, image, label)
            name = f"p{patient}_s{number}.png"
            Image.fromarray(image).save(folder / "images" / name)
            Image.fromarray(label).save(folder / "masks" / name)
            item = {"image": f"./images/{name}", "label": f"./masks/{name}", "patient": f"p{patient}", "slice": number}
            items.append(item)
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "spot"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


def write_volumes(folder):
    """The same patients as volumes of several channels, the first and last slices empty, axes turned."""
    items = []
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    affine = np.array([[0, -1.0, 0, 0], [-1, 0, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    for patient in range(PATIENTS):
        slices = [draw(patient, number) for number in range(SLICES)]
        image = np.stack([np.zeros_like(slices[0][0]), *(image for image, _ in slices)], axis=2).astype(np.float32)
        label = np.stack([np.zeros_like(slices[0][1]), *(label for _, label in slices)], axis=2)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, affine), folder / part / f"v{patient}.nii.gz")
        items.append({"image": f"./imagesTr/v{patient}.nii.gz", "label": f"./labelsTr/v{patient}.nii.gz"})
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "spot"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


def weights(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(first, second):
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)
    assert first.read_bytes() == second.read_bytes()

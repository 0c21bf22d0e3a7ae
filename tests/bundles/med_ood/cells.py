"""Pictures of cells for tests, and the settings that make their trainings short."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "med_ood"


SHORT = {
    "max_epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "samples_per_epoch": 64,
    "roi_size": [32, 32],
    "norm": "instance",
    # A class more than the pictures show.
    "out_channels": 3,
}
FEW = SHORT | {"samples_per_epoch": 8}
"""For what takes many trainings."""
SIZES = [(64, 64), (50, 70), (33, 40), (64, 48), (70, 64), (40, 40)]


def draw(index, size):
    """A pink picture with dark round cells, which the label holds, and two paler stains, which it does not."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[: size[1], : size[0]]
    label = np.zeros(size[::-1], dtype=np.uint8)
    picture = np.full((*label.shape, 3), (235, 190, 215), dtype=float)
    for number in range(6):
        radius = np.hypot(x - rng.uniform(0, size[0]), y - rng.uniform(0, size[1]))
        picture[radius < 9] = (140, 100, 175) if number > 3 else (110, 70, 160)
        label[radius < 9] = 0 if number > 3 else 1
    return (picture + rng.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8), label


def write_pictures(folder, sizes, *, save_label=None, labels=None, **keys):
    """A folder in the layout of the 2-D sets; ``labels`` may replace the label of each picture."""
    items = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index, size in enumerate(sizes):
        picture, label = draw(index, size)
        label = label if labels is None else labels(index, label)
        name = f"tile_{index}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        (save_label or (lambda array: Image.fromarray(array)))(label).save(folder / "masks" / name)
        item = {"image": f"./images/{name}", "label": f"./masks/{name}"}
        items.append(item | {key: values[index] for key, values in keys.items()})
    listing = {"labels": {"0": "background", "1": "cell"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder

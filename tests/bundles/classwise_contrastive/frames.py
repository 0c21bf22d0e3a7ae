"""Frames of videos for the tests of ``classwise_contrastive``, and what a run leaves."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "classwise_contrastive"


def draw_frame(index, size=(40, 34)):
    """A frame with a bright square, a dark one, both or none, and its mask."""
    rng = np.random.default_rng(index)
    picture, mask = rng.integers(90, 130, (size[1], size[0], 3)), np.zeros((size[1], size[0]), np.uint8)
    for number, shown in enumerate(((1, 1, 0, 1)[index % 4], (0, 1, 0, 1)[index % 4]), start=1):
        if shown:
            x, y = rng.integers(2, 16, 2)
            mask[y : y + 12, x : x + 12] = number
            picture[mask == number] = (220, 20)[number - 1]
    return picture.astype(np.uint8), mask


def write_frames(folder, count=16, *, listed=False, videos=4, size=None, masks=True):
    """A folder with a listing of frames of several videos."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    items = []
    for index in range(count):
        picture, mask = draw_frame(index, *([size(index)] if size else []))
        item = {"image": f"images/f{index}.png", "video": f"v{index * videos // count}"}
        Image.fromarray(picture).save(folder / item["image"])
        if masks:
            item["label"] = f"masks/f{index}.png"
            Image.fromarray(mask).save(folder / item["label"])
        if listed:
            item |= {"classes": sorted({0, *np.unique(mask).tolist()}), "phase": f"p{index % 2}"}
        items.append(item)
    listing = {"modality": {"0": "RGB"}, "labels": {"0": "background", "1": "bright", "2": "dark"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


def epochs_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["epochs"]

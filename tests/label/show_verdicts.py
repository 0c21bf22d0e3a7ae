"""Makes the picture of the page on MONAI Label from the answers of a running server; no test, but run by hand.

``python -m tests.label.show_verdicts make SCAN STUDIES`` fills the folder of studies before the server starts;
``python -m tests.label.show_verdicts draw STUDIES ADDRESS MODEL PICTURE`` asks, prints the verdicts, and draws.
"""

import email
import email.policy
import gzip
import json
import sys
import urllib.request
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import torch

from common.figures import draw_gallery
from common.figures.slices import telling_slice
from common.transforms.damage import DAMAGES

STUDIES = {"": None, "_inverted": "inversion", "_noisy": "noise_0.6", "_thick": "thick_slices_3"}
"""End of the name of a study -> damage of the scan; the first is the scan as it is."""

SPOKEN = {"oodm": "OODM", "threshold": "threshold"}


def make_studies(scan, studies):
    """Writes a scan and damaged copies of it."""
    scan, folder = Path(scan), Path(studies)
    folder.mkdir(parents=True, exist_ok=True)
    source = nib.load(scan)
    voxels = torch.as_tensor(np.asarray(source.dataobj, dtype=np.float32))[None]
    spread = voxels.std()
    for end, damage in STUDIES.items():
        # Damages expect an image of unit spread.
        changed = voxels if damage is None else spread * DAMAGES[damage](voxels / spread, torch.Generator())
        nib.save(nib.Nifti1Image(changed[0].numpy(), source.affine), folder / f"{scan.name.split('.')[0]}{end}.nii.gz")


def draw_answers(studies, address, model, picture):
    """Asks for the segmentation of every study, prints its verdict, and draws all in a row, the undamaged one first."""
    pictures = []
    for file in sorted(Path(studies).glob("*.nii.gz")):
        verdict, mask = _segment(f"{address}/infer/{model}?image={file.name.split('.')[0]}")
        sys.stdout.write(f"{file.name}: {json.dumps(verdict)}\n")
        image, outline = (torch.as_tensor(np.asarray(of.dataobj, dtype=np.float32)) for of in (nib.load(file), mask))
        word = "OUT OF DISTRIBUTION" if verdict["is_ood"] else "in distribution"
        numbers = ", ".join(f"{name} {verdict[key]:.4g}" for key, name in SPOKEN.items())
        name = file.name.split(".")[0].replace("_", " ", 1).replace("_", ", ")
        pictures.append((*telling_slice(image[None], outline[None]), f"{name}\n{word}\n{numbers}"))
    draw_gallery(pictures, picture, columns=len(pictures))


def _segment(url):
    """The params and the segmentation of an answer of two parts."""
    kind = "application/x-www-form-urlencoded"
    request = urllib.request.Request(url, b"params={}", {"Content-Type": kind}, method="POST")
    with urllib.request.urlopen(request, timeout=300) as answer:
        head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + answer.read(), policy=email.policy.HTTP)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    params = json.loads(parts["params"].get_content())
    own = {key: value for key, value in params.items() if key not in ("label_names", "latencies", "centroids")}
    return own, nib.Nifti1Image.from_bytes(gzip.decompress(parts["image"].get_content()))


if __name__ == "__main__":
    fire.Fire({"make": make_studies, "draw": draw_answers})

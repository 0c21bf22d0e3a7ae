"""A bundle in the format of MONAI's model zoo that has nothing of ours, with random weights, and scans for it."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from common.phantoms.volumes import phantom_scan

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [8, 16],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
PREPARATION = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
    {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -57,
        "a_max": 164,
        "b_min": 0,
        "b_max": 1,
        "clip": True,
    },
    {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
]
LOADING = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
CONFIG = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "/workspace/data/Task09_Spleen",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": LOADING + PREPARATION},
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    },
    "run": ["$@evaluator.run()"],
}


def write_scans(folder, task, numbers, edit=lambda array: array):
    """Phantoms as files, 2 x 2 x 2 mm, in another orientation than RAS; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{task}_{number}.nii.gz" for number in numbers]
    for number, file in zip(numbers, files, strict=True):
        array = edit(phantom_scan(task, number)[0][::2, ::2, ::2])
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 2.0, 1.0])), file)
    return files


@pytest.fixture(scope="package")
def zoo(tmp_path_factory):
    """The bundle, its network, TorchScript of it, and folders of scans."""
    root = tmp_path_factory.mktemp("zoo")
    (root / "spleen" / "configs").mkdir(parents=True)
    (root / "spleen" / "models").mkdir()
    (root / "spleen" / "configs" / "inference.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in NETWORK.items() if key != "_target_"}).eval()
    torch.save(network.state_dict(), root / "spleen" / "models" / "model.pt")
    torch.jit.save(torch.jit.script(network), root / "model.ts")
    train = write_scans(root / "train", "ellipsoid_ct", range(8))
    write_scans(root / "held_out", "ellipsoid_ct", range(100, 104))
    write_scans(root / "new", "ellipsoid_ct", range(200, 203))
    noise = np.random.default_rng(0)
    write_scans(root / "other", "tube_ct", [0], lambda array: array + 200 * noise.normal(size=array.shape).astype("f"))
    return SimpleNamespace(root=root, bundle=root / "spleen", network=network, train=train)


@pytest.fixture(scope="package")
def fitted(zoo):
    """The bank that the command fits to the bundle, with held-out scans."""
    from common.own_network import fit_own_bank

    file = zoo.root / "bank.npz"
    fit_own_bank(str(zoo.bundle), str(zoo.root / "train"), bank_file=str(file), held_out_dir=str(zoo.root / "held_out"))
    return file

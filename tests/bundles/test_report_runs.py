"""Inference of every bundle that is stopped and goes on, and whose pictures must show what was written."""

import json
import os
import shutil
import signal

import itk
import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes
from monai.engines import SupervisedEvaluator
from PIL import Image

from common.handlers.verdicts import JOURNAL

AXES = {
    "straight": np.diag([1.0, 1.0, 1.0, 1.0]),
    "thick": np.diag([0.8, 0.8, 3.0, 1.0]),
    "flipped": np.array([[-1.5, 0, 0, 20], [0, -1, 0, 17], [0, 0, 2, -3], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 2.0, 0], [-1, 0, 0, 9], [0, 1.2, 0, 0], [0, 0, 0, 1]]),
}
"""Affines of scans: name -> ``(4, 4)``."""

OVERLAYS = ["", "slices.json", "volumes.json"]
"""Configs that decide over the grid on which a network sees a scan, laid over a bundle's where it has them."""


def write_scans(folder, make_scan, spatial_dims, channels):
    """A folder of scans that lie in all ways: volumes, or pictures of other sizes than the network's."""
    folder.mkdir()
    for index, (name, affine) in enumerate(AXES.items()):
        if spatial_dims == 3:
            nib.save(nib.Nifti1Image(make_scan(index, (20 + index, 17, 13))[0], affine), folder / f"{name}.nii.gz")
        else:
            image = itk.image_from_array(
                np.stack([make_scan(index, (37, 50 + 3 * index))[0]] * channels, axis=-1), True
            )
            image.SetSpacing([1.0, 1.0 + index])
            image.SetDirection(itk.matrix_from_array(np.array([[-1.0, 0], [0, 1 - 2 * (index % 2)]])))
            itk.imwrite(image, str(folder / f"{name}.mha"))
    return folder


def ras(path):
    """A volume as nibabel reads it, its axes to the right, to the front and upwards; a picture as it is stored."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).T
    if path.suffix == ".mha":
        return itk.array_from_image(itk.imread(str(path))).swapaxes(0, 1)
    return nib.as_closest_canonical(nib.load(path)).get_fdata()


@pytest.fixture
def gallery(monkeypatch):
    """What matplotlib draws: text above a picture -> slice, and outline where there is one; first axis to the right."""
    shown, pictures = {}, {}

    def note(name, turn, then):
        def method(axis, values, *arguments, **settings):
            found = turn(values)
            # Every class has an outline.
            pictures.setdefault(axis, {})[name] = (
                found | pictures[axis].get(name, found) if name == "outline" else found
            )
            if name == "text":
                shown[values] = pictures[axis]
            return then(axis, values, *arguments, **settings)

        return method

    for method, name, turn in (
        ("imshow", "scan", lambda values: values.swapaxes(0, 1)),
        ("contour", "outline", np.transpose),
        ("set_title", "text", str),
    ):
        monkeypatch.setattr(Axes, method, note(name, turn, getattr(Axes, method)))
    return shown


def assert_gallery(gallery, scans, output):
    """Every picture shows a slice of a scan and, as its outline, that of the mask that was written for it."""
    for text, picture in gallery.items():
        name, _, plane = text.split("\n")[0].partition("_s0")
        scan = ras(next(scans.glob(f"{name}.*")))
        classes = ras(next((output / name).glob(f"{name}_seg.*")))
        if not (output / name / f"{name}_seg.png").exists():
            area = (classes > 0).sum(axis=(0, 1))
            place = int(plane) if plane else int(area.argmax()) if area.any() else scan.shape[-1] // 2
            scan, classes = scan[..., place], classes[..., place]
        np.testing.assert_allclose(picture["scan"] / picture["scan"].max(), scan / scan.max(), atol=1e-6)
        # A class that fills the whole slice has no outline; two that fill it together have.
        assert ("outline" in picture) == any(
            0 < (classes == number).mean() < 1 for number in np.unique(classes[classes > 0])
        )
        if "outline" in picture:
            np.testing.assert_array_equal(picture["outline"], classes > 0)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gallery_shows_scan_and_mask_on_one_grid(
    bundle, configs, make_dataset, make_scan, trained, run_config, gallery, tmp_path, overlay
):
    if overlay and overlay.removesuffix(".json") not in configs:
        pytest.skip("this bundle has no such config")
    config = configs["inference"] | configs.get(overlay.removesuffix(".json"), {})
    dims, channels = config["spatial_dims"], config["in_channels"]
    scans = write_scans(tmp_path / "scans", make_scan, dims, channels)
    models, names = trained.models, [overlay] if overlay else []
    if overlay:
        models, data = tmp_path / "m", make_dataset(tmp_path / "data", spatial_dims=dims, channels=channels)
        run_config(bundle, ["train.json", *names], dataset_dir=data, model_dir=models, output_dir=tmp_path / "t")
        gallery.clear()
    run_config(bundle, ["inference.json", *names], dataset_dir=scans, model_dir=models, output_dir=tmp_path / "out")
    assert len(gallery) == len(AXES)
    assert_gallery(gallery, scans, tmp_path / "out")


@pytest.mark.tried(
    "Where a mask lies",
    "Resampling, padding, flipped and permuted axes, in every bundle",
    "Image and outline in the gallery lie on the grid of the scan.",
)
def test_gallery_is_on_the_grid_of_the_scan_where_the_network_sees_another(
    bundle, configs, dataset, make_scan, trained, run_config, gallery, tmp_path
):
    if "spacing" not in configs["inference"]:
        pytest.skip("this bundle does not resample")
    scans = write_scans(tmp_path / "scans", make_scan, 3, 1)
    models, settings = tmp_path / "m", {"spacing": [2.0, 1.5, 2.5], "model_dir": tmp_path / "m"}
    shutil.copytree(trained.models, models)
    # Weights that say nothing of the voxels they were trained on.
    (models / "model_settings.json").unlink()
    run_config(bundle, "train.json", "fit_bank", dataset_dir=dataset, output_dir=tmp_path / "t", **settings)
    run_config(bundle, "inference.json", dataset_dir=scans, output_dir=tmp_path / "out", **settings)
    assert len(gallery) == len(AXES)
    assert_gallery(gallery, scans, tmp_path / "out")


def test_gallery_of_slices_shows_those_of_the_volume(
    bundle, configs, make_dataset, make_scan, run_config, gallery, tmp_path
):
    if "slice_cases" not in str(configs["inference"]["scans"]):
        pytest.skip("this bundle cuts no slices")
    scans, data = write_scans(tmp_path / "scans", make_scan, 3, 1), make_dataset(tmp_path / "data", spatial_dims=3)
    settings = {"in_channels": 1, "model_dir": tmp_path / "m"}
    run_config(bundle, "train.json", dataset_dir=data, output_dir=tmp_path / "t", **settings)
    gallery.clear()
    run_config(bundle, "inference.json", dataset_dir=scans, output_dir=tmp_path / "out", **settings)
    assert len(gallery) == 12
    assert_gallery(gallery, scans, tmp_path / "out")


def interrupt_at(number, patch):
    """Sends Ctrl-C while the scan of this number is segmented; returns the list that counts scans."""
    seen, original = [], SupervisedEvaluator._iteration

    def iteration(self, engine, batch):
        seen.append(batch["case"])
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, engine, batch)

    patch.setattr(SupervisedEvaluator, "_iteration", iteration)
    return seen


def written(folder):
    """Content of everything but the pictures and the journal, which holds times of files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("gallery.png", JOURNAL)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.tried(
    "Runs that are stopped",
    "Ctrl-C during inference, in every bundle",
    "The rows so far are there; `--resume true` does the rest.",
)
def test_stopped_run_has_its_rows_and_goes_on_where_it_was(
    bundle, configs, make_scan, trained, run_config, tmp_path, monkeypatch
):
    config = configs["inference"]
    scans = write_scans(tmp_path / "scans", make_scan, config["spatial_dims"], config["in_channels"])
    settings = {"dataset_dir": scans, "model_dir": trained.models}
    run_config(bundle, "inference.json", output_dir=tmp_path / "whole", **settings)
    settings["output_dir"] = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(KeyboardInterrupt, match=r"Ctrl-C: 2 of 4 scan\(s\) have their row in .*--resume true does"):
            run_config(bundle, "inference.json", **settings)
    lines = (tmp_path / "stopped" / "ood_report.csv").read_text().splitlines()
    assert lines == (tmp_path / "whole" / "ood_report.csv").read_text().splitlines()[:3]
    rows = json.loads((tmp_path / "stopped" / "ood_report.json").read_text())["rows"]
    assert [row["image"] for row in rows] == [line.split(",")[0] for line in lines[1:]] == sorted(AXES)[:2]
    assert {path.name for path in (tmp_path / "stopped").iterdir() if path.is_dir()} == set(sorted(AXES)[:2])
    seen = interrupt_at(0, monkeypatch)
    run_config(bundle, "inference.json", **settings, resume=True)
    assert seen == [[name] for name in sorted(AXES)[2:]]
    assert written(tmp_path / "stopped") == written(tmp_path / "whole")
    run_config(bundle, "inference.json", **settings, resume=True)
    assert len(seen) == 2, "nothing is left to do"
    os.utime(next(scans.glob("flipped.*")))
    run_config(bundle, "inference.json", **settings, resume=True)
    assert seen[2:] == [["flipped"]], "its file has changed"
    assert written(tmp_path / "stopped") == written(tmp_path / "whole")

"""Archives of all bundles: reproducible, complete, and running where nothing else of this repository is."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from common.archive import build_archives, install
from common.spectral import SignatureBank
from tests.running import REPRESENTATIVES, importable

BUNDLES = sorted(path.parent.name for path in (Path(__file__).resolve().parents[2] / "bundles").glob("*/configs"))
TRAINING = {"max_epochs", "pretrain_epochs", "phantom_cases", "healthy", "noise_resolution"}
"""Tiny settings of trainings alone."""
SCRIPT = """
import json, logging, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import monai.bundle
root, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
for name, settings in runs.items():
    monai.bundle.run(config_file=str(root / "configs" / f"{name}.json"), **settings)
used = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ("scripts", "common")}
assert "scripts.common.runtime.distributed" in used, used
assert all(Path(file).is_relative_to(root / "scripts") for file in used.values()), used
"""


@pytest.fixture(scope="session")
def archives(repository, tmp_path_factory):
    """A folder of all archives."""
    folder = tmp_path_factory.mktemp("dist")
    build_archives(str(repository / "bundles"), str(folder))
    return folder


@pytest.fixture(params=BUNDLES)
def archive(request, archives, repository):
    """The archive of one bundle."""
    metadata = json.loads((repository / "bundles" / request.param / "configs" / "metadata.json").read_text())
    return archives / f"{request.param}_v{metadata['version']}.zip"


@pytest.fixture
def unpacked(archive, tmp_path):
    """The one folder of an archive, unpacked where nothing else is."""
    return unpack(archive, tmp_path / "unpacked")


def unpack(archive, folder):
    install(str(archive), str(folder))
    return folder / archive.name.split("_v")[0]


def test_same_input_gives_the_same_bytes(archives, repository, tmp_path):
    build_archives(str(repository / "bundles"), str(tmp_path))
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (archives, tmp_path))
    assert first == second
    assert first.keys() == {path.name for path in archives.glob("*.zip")} | {"SHA256SUMS", "bundle_tool.pyz"}
    assert len(first) == len(BUNDLES) + 2


def test_sums_are_those_of_the_files(archives):
    lines = (archives / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [path for path in archives.iterdir() if path.name != "SHA256SUMS"]
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_archive_is_complete_and_clean(archive, repository):
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        names = file.namelist()
        times = {entry.date_time for entry in file.infolist()}
    assert len({name.split("/")[0] for name in names}) == 1
    top = names[0].split("/")[0]
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"__pycache__", "output", ".git", ".mypy_cache", ".ruff_cache"}
    assert not [name for name in names if name.endswith((".pyc", ".pyo")) or Path(name).name.startswith(".")]
    package = {path.relative_to(repository).as_posix() for path in (repository / "common").rglob("*.py")}
    assert {f"{top}/scripts/{name}" for name in package} <= set(names)
    own = {path for path in (repository / "bundles" / top).rglob("*") if path.is_file()}
    own = {path.relative_to(repository / "bundles").as_posix() for path in own}
    assert {name for name in own if not {"__pycache__", "output"} & set(name.split("/"))} <= set(names)
    assert times == {(1980, 1, 1, 0, 0, 0)}


def test_building_leaves_no_temporary_file(archives):
    assert {path.suffix for path in archives.iterdir() if path.name != "SHA256SUMS"} == {".zip", ".pyz"}


def test_unpacked_bundle_runs_alone(unpacked, run_python, make_dataset, shape_of, tiny_settings, repository, tmp_path):
    """Training, inference and evaluation, standing elsewhere, those of two bundles standing in the repository."""
    config = json.loads((unpacked / "configs" / "train.json").read_text(encoding="utf-8"))
    data = make_dataset(tmp_path / "organ", **shape_of(config))
    tiny = tiny_settings(config) | {"dataset_dir": str(data), "device": "cpu", "model_dir": str(tmp_path / "models")}
    short = {key: value for key, value in tiny.items() if key not in TRAINING}
    files = {path for path in unpacked.rglob("*") if path.is_file()}
    runs = {name: short | {"output_dir": str(tmp_path / name)} for name in ("inference", "evaluate")}
    runs = {"train": tiny | {"output_dir": str(tmp_path / "train")}} | runs
    (tmp_path / "elsewhere").mkdir()
    cwd = repository if unpacked.name in REPRESENTATIVES else tmp_path / "elsewhere"
    result = run_python(["-c", SCRIPT, str(unpacked), json.dumps(runs)], cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    suffix = ".nii.gz" if config["spatial_dims"] == 3 else ".png"
    assert (tmp_path / "models" / "model.pt").is_file()
    assert (tmp_path / "inference" / "case_0" / f"case_0_seg{suffix}").is_file()
    assert (tmp_path / "evaluate" / "metrics.json").is_file()
    assert {path for path in unpacked.rglob("*") if path.is_file()} == files, "runs write nothing into the bundle"


def test_two_versions_in_one_process_use_their_own_code(archive, tmp_path):
    """As MONAI Label does: the folder of a bundle on the path, ``scripts`` forgotten in between."""
    roots = [unpack(archive, tmp_path / name) for name in ("old", "new")]
    package = roots[1] / "scripts" / "common" / "__init__.py"
    package.write_text(package.read_text(encoding="utf-8").replace('__version__ = "', '__version__ = "9.9.'))
    seen = []
    for root in [*roots, roots[0]]:
        with importable(root):
            parser = ConfigParser(json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8")))
            # A network may be MONAI's own; what computes signatures never is.
            inferer = parser.get_parsed_content("inferer")
            file = Path(sys.modules[type(inferer).__module__].__file__)
            assert file.is_relative_to(root / "scripts" / "common")
            assert parser.get_parsed_content("bundle_root") == str(root)
            seen.append(sys.modules["scripts.common"].__version__)
    assert seen[1].startswith("9.9.")
    assert seen[0] == seen[2] != seen[1]


def verdict_of(root, image):
    """What segments and judges an image with one bundle, whatever else lies on the path when it is called."""
    with importable(root):
        parser = ConfigParser(json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8")))
        parts = [
            parser.get_parsed_content(name) for name in ("network_def", "preprocessing", "inferer", "postprocessing")
        ]
    network, preprocessing, inferer, postprocessing = parts
    network.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True))
    network.eval()

    def judge():
        data = preprocessing({"image": str(image), "case": "x"})
        with torch.no_grad():
            found = inferer(data["image"][None], network)
        item = {"image": data["image"], "pred": {key: value[0] for key, value in found.items()}}
        item = postprocessing(item | {"case": "x"})
        return item["result"], item["pred"]

    return judge


# The judging is of the shared package; that its code is the archive's own is seen of each above.
@pytest.mark.parametrize("archive", REPRESENTATIVES, indirect=True)
def test_two_versions_judge_in_turns_by_their_own_banks(archive, make_scan, save_scan, shape_of, tmp_path):
    roots = [unpack(archive, tmp_path / name) for name in ("old", "new")]
    shape = shape_of(json.loads((roots[0] / "configs" / "inference.json").read_text(encoding="utf-8")))
    scan = make_scan(0, (20, 18, 16)[: shape["spatial_dims"]])[0]
    image = save_scan(tmp_path / "scan", scan, channels=shape["channels"])
    banks = [SignatureBank.load(root / "models" / "signature_bank.npz") for root in roots]
    second = banks[1]
    settings = vars(second.settings) | {"layer_sizes": second.layers.sizes, "c": second.c + 1}
    banks[1] = SignatureBank.fit(second.signatures, **settings)
    banks[1].save(roots[1] / "models" / "signature_bank.npz")
    judges = [verdict_of(root, image) for root in roots]
    seen = [judges[turn]() for turn in (0, 1, 0, 1)]
    thresholds = [result["threshold"] for result, _ in seen]
    assert thresholds == pytest.approx([banks[turn].threshold for turn in (0, 1, 0, 1)], rel=1e-9)
    assert thresholds[0] < thresholds[1]
    assert len({result["oodm"] for result, _ in seen}) == 1
    for _, segmentation in seen[1:]:
        torch.testing.assert_close(segmentation, seen[0][1], rtol=0, atol=0)


def test_monai_loads_the_network_of_an_unpacked_bundle(unpacked):
    with importable(unpacked):
        parser = ConfigParser(json.loads((unpacked / "configs" / "inference.json").read_text(encoding="utf-8")))
        made = parser.get_parsed_content("network_def")
        (unpacked / "models").mkdir(exist_ok=True)
        torch.save(made.state_dict(), unpacked / "models" / "model.pt")
        loaded = monai.bundle.load(unpacked.name, bundle_dir=str(unpacked.parent), workflow_type="inference")
    assert type(loaded).__name__ == type(made).__name__
    torch.testing.assert_close(loaded.state_dict(), made.state_dict(), rtol=0, atol=0)


def test_bundle_without_its_package_says_so(unpacked, environment, tmp_path):
    """A folder that is neither a checkout nor a whole archive fails at the import, not silently with other code."""
    shutil.rmtree(unpacked / "scripts" / "common")
    command = [sys.executable, "-c", "import scripts.common"]
    result = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, timeout=60)
    assert "No module named 'scripts.common'" in result.stderr

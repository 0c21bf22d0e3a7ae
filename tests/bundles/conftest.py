"""The bundles that the contract suite tests: every folder of ``bundles/``, found, not listed."""

import csv
import json
import re
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from common.runtime.model_settings import with_defaults
from tests.bundles.ranks import read_states, write_spy
from tests.bundles.refusals import leftovers
from tests.running import REPRESENTATIVES

BUNDLES = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "bundles").glob("*/configs"))


def pytest_generate_tests(metafunc):
    """Gives every test that asks for ``bundle`` each of them, or the two that represent volumes and pictures."""
    if "bundle" in metafunc.fixturenames:
        two = metafunc.definition.get_closest_marker("two_bundles")
        chosen = [path for path in BUNDLES if path.name in REPRESENTATIVES or not two]
        metafunc.parametrize("bundle", chosen, ids=[path.name for path in chosen], scope="session")


@pytest.fixture(scope="session")
def all_bundles():
    return BUNDLES


@pytest.fixture(scope="session")
def written_configs(bundle):
    """File name without suffix -> content, of the bundle's JSON files."""
    files = sorted((bundle / "configs").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(scope="session")
def configs(written_configs):
    """File name without suffix -> content, with the values that hold for weights without settings of their own."""
    return with_defaults(written_configs)


@pytest.fixture(scope="session")
def judges(configs):
    """Whether the bundle tells out-of-distribution scans."""
    return "ood_dir" in configs["evaluate"]


@pytest.fixture(scope="session")
def shape(configs, shape_of):
    """Axes and channels of the bundle's images, as ``make_dataset`` takes them."""
    return shape_of(configs["train"])


@pytest.fixture(scope="session")
def dataset(bundle, shape, make_dataset, tmp_path_factory):
    """A Decathlon folder of four tiny cases."""
    return make_dataset(tmp_path_factory.mktemp("data") / "organ", **shape)


@pytest.fixture(scope="session")
def two_epochs(configs):
    """Settings of a run of two epochs, which measures on the way how hard each loss pulls, where there are several."""
    return {"max_epochs": 2} | ({"balance_interval": 2} if "balance_interval" in configs["train"] else {})


@pytest.fixture(scope="session")
def trained(bundle, dataset, two_epochs, run_config, tmp_path_factory):
    """A run of two epochs on given data: ``output`` and ``models``."""
    output = tmp_path_factory.mktemp("trained")
    run = SimpleNamespace(output=output, models=output / "weights")
    run_config(bundle, "train.json", dataset_dir=dataset, output_dir=run.output, model_dir=run.models, **two_epochs)
    return run


def save_series(folder, array, *, uid="1.2.826.0.1", tilt=0.0, skip=()):
    """Writes a DICOM series, its files named against the order of the slices; returns its affine (RAS)."""
    folder.mkdir(parents=True, exist_ok=True)
    step = np.array([0.0, np.sin(tilt), np.cos(tilt)]) * 2.5
    for index in range(array.shape[2]):
        if index in skip:
            continue
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(index)])
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = uid, "MR", 1 + index
        data.ImagePositionPatient = [float(round(x, 6)) for x in np.array([-8.0, 4, 20]) + index * step]
        data.ImageOrientationPatient = [1, 0, 0, 0, float(round(np.cos(tilt), 9)), float(round(-np.sin(tilt), 9))]
        data.PixelSpacing = [0.9, 0.7]  # between rows (j), between columns (i)
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.PixelData = np.clip(array[:, :, index].T, 0, None).astype(np.uint16).tobytes()
        data.save_as(folder / f"{99 - index}_{uid[-1]}.dcm", enforce_file_format=True)
    down = [0.0, np.cos(tilt) * 0.9, -np.sin(tilt) * 0.9]
    affine = np.eye(4)
    affine[:3] = np.stack([[0.7, 0, 0], down, step, [-8.0, 4, 20]], axis=1)
    return np.diag([-1.0, -1, 1, 1]) @ affine


@pytest.fixture(scope="session")
def write_series():
    return save_series


@pytest.fixture(scope="session")
def overridable():
    """The keys that users override in every ``train.json``."""
    folders = ["dataset_dir", "output_dir", "model_dir"]
    return [*folders, "device", "max_epochs", "batch_size", "learning_rate", "num_workers", "seed", "val_interval"]


@pytest.fixture(scope="session")
def read_json():
    return lambda path: json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def read_table():
    """Rows of a CSV file, by the names of its columns."""

    def read(path):
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read


KILLED = """
import os, runpy, signal, sys
sys.path.insert(0, {bundle!r})
from ignite.engine import Events
from scripts.common.runtime.stages import Stages

def kill(*_args, **_settings):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_in_second_epoch(trainer):
    trainer.add_event_handler(Events.ITERATION_COMPLETED(event_filter=lambda engine, _: at_end(engine)), kill)

def at_end(engine):
    return (engine.state.epoch, engine.state.iteration) == (2, engine.state.epoch_length + 1)

def run(self, name, work, **settings):
    return run_stage(self, name, kill if name == {stage!r} else work, **settings)

run_stage, Stages.run = Stages.run, run
{patch}
runpy.run_module("monai.bundle", run_name="__main__")
"""
"""A training that kills itself at one place."""


@pytest.fixture
def run_killed(run_python, bundle_command, tmp_path):
    """Trains in a process that is killed by SIGKILL; returns the stages that it began, in order.

    It dies where the work of ``stage`` would begin, or where ``patch``, code that comes before the training, has put
    ``kill`` or called ``kill_in_second_epoch``. Without either it must live to its end.
    """

    def run(bundle, *, stage="", patch="", **settings):
        program = ["-c", KILLED.format(bundle=str(bundle), stage=stage, patch=patch)]
        _module, _name, *words = bundle_command(bundle, "train.json", **settings)
        result = run_python([*program, *words], cwd=tmp_path)
        assert result.returncode == (-signal.SIGKILL if stage or patch else 0), result.stderr[-2000:]
        return re.findall(r"stage (\w+): starts", result.stdout)

    return run


@pytest.fixture
def states_of_two_processes(run_command, tmp_path):
    """Trains on two processes; returns what each of them holds of the members at the end, see ``write_spy``."""

    def start(bundle, members, *, with_buffers=True, **settings):
        overlay = write_spy(tmp_path, members, with_buffers=with_buffers)
        run_command(
            bundle, ["train.json", "multi_gpu_train.json", overlay], cwd=tmp_path, ranks=2,
            output_dir=tmp_path / "out", model_dir=tmp_path / "m", env={"PYTHONPATH": str(tmp_path)}, **settings,
        )  # fmt: skip
        return read_states(tmp_path)

    return start


@pytest.fixture
def fail_training(fail_config, tmp_path):
    """Trains a bundle on a folder, which must fail; returns the error after checking that no weights were left."""

    def start(bundle, folder, names="train.json", **settings):
        settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | settings
        error = fail_config(bundle, names, **settings)
        assert not list(tmp_path.rglob("*.pt"))
        assert not leftovers(tmp_path)
        return error

    return start


@pytest.fixture
def train_on(bundle, fail_training):
    """Trains the bundle of a test on a folder, see :func:`fail_training`."""
    return partial(fail_training, bundle)


@pytest.fixture
def infer_on(bundle, fail_config, trained, tmp_path):
    """Segments a folder, which must fail; returns the error."""

    def start(folder, **settings):
        settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": trained.models} | settings
        return fail_config(bundle, "inference.json", **settings)

    return start

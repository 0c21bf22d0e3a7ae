"""What tests of several folders share: accepted warnings and tiny data."""

import gc
import json
import logging
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.scheduling import GroupScheduling, order

pytest_plugins = ["tests.processes", "tests.running"]
REPOSITORY = Path(__file__).resolve().parents[1]
IGNORED_WARNINGS = (
    # MONAI reminds at every parse that a config is code; README and CONTRACT tell users so.
    "ignore:parsing config_file:UserWarning:monai.bundle.scripts",
    # MONAI's pydicom reader reports an optional GPU decoder that is not installed, for every kind of file.
    "ignore:NvImgCodecPydicomReader:UserWarning:monai.data.image_reader",
    # itk's compiled modules; as an error inside their initialization it would crash the interpreter.
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning",
    # MONAI's surface metrics pass an argument that MONAI deprecated.
    "ignore:.*always_return_as_numpy.*:FutureWarning:monai.utils.deprecate_utils",
)


def pytest_configure(config):
    # Programs that are started in the background ignore Ctrl-C, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bound_properties(config.getoption("--hypothesis-profile") or "bounded")

    for line in IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Gives torch one thread; a process that only hands tests out to others neither comes here nor imports it.

    What is there before the first test stays until the last, so nobody need look for garbage in it.
    """
    import torch

    torch.set_num_threads(1)
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Long groups start first; without effect on which tests run."""
    items.sort(key=lambda item: order(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distributes whole groups of tests where ``--dist loadgroup`` asks for it."""
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


def bound_properties(profile):
    """Properties are tried on the same examples every time, on so many that a test takes a few seconds at most.

    With the profile ``long``, they are tried on other examples every time, and on forty times as many.
    """
    # A fixture stays the same for all examples of a test, which is what tests here want of their folders.
    allowed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    settings.register_profile(
        "bounded", derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=allowed
    )
    settings.register_profile("long", settings.get_profile("bounded"), max_examples=4000, derandomize=False)
    settings.load_profile(profile)


@pytest.fixture(autouse=True)
def fresh_log():
    """Every test starts with the log of a fresh interpreter, whatever commands before it have set."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    # Those of pytest are of kinds of their own.
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
    logging.getLogger("ignite").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


def tiny_scan(index, shape=(20, 18, 16)):
    """A bright ellipsoid in noise, and its label."""
    rng = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    label = ((grid - rng.uniform(-0.2, 0.2, (len(shape), *[1] * len(shape)))) ** 2).sum(axis=0) < 0.25
    image = 100 + 60 * label + 20 * rng.standard_normal(shape)
    return image.astype(np.float32), label.astype(np.uint8)


@pytest.fixture(scope="session")
def make_scan():
    return tiny_scan


def write_scan(path, array, affine=None, *, channels=1):
    """Writes an array as NIfTI, or, as a picture of so many equal channels, as MHA; returns the file."""
    import nibabel as nib

    affine = np.eye(4) if affine is None else affine
    path.parent.mkdir(parents=True, exist_ok=True)
    if channels == 1:
        nib.save(nib.Nifti1Image(array, affine), path.with_name(f"{path.name}.nii.gz"))
        return path.with_name(f"{path.name}.nii.gz")
    import itk  # warns while it is imported, which only tests may

    # A label has one channel, but must be in the same kind of file: NIfTI has no plane geometry.
    color = array.dtype.kind == "f"
    pixels = np.stack([array.T.astype(np.float32)] * channels, axis=-1) if color else np.ascontiguousarray(array.T)
    image = itk.image_from_array(pixels, is_vector=color)
    image.SetDirection(itk.matrix_from_array(np.diag([-1.0, -1.0])))
    image.SetOrigin((-affine[:2, 3]).tolist())
    itk.imwrite(image, str(path.with_name(f"{path.name}.mha")))
    return path.with_name(f"{path.name}.mha")


@pytest.fixture(scope="session")
def save_scan():
    return write_scan


@pytest.fixture(scope="session")
def shape_of():
    """What ``make_dataset`` needs to make scans for a config."""
    from common.runtime.model_settings import with_defaults  # MONAI, see pytest_collection

    return lambda config: {
        "spatial_dims": with_defaults(config["spatial_dims"]),
        "channels": with_defaults(config["in_channels"]),
    }


@pytest.fixture(scope="session")
def make_dataset():
    """Writes a Decathlon folder of tiny scans; ``edit(index, image, label)`` may change them and give affines."""

    def make(folder, count=4, *, spatial_dims=3, channels=1, edit=None, start=0):
        items = []
        for index in range(start, start + count):
            image, label = tiny_scan(index, (20, 18, 16)[:spatial_dims])
            arrays = {"imagesTr": (image, np.eye(4)), "labelsTr": (label, np.eye(4))}
            if edit:
                arrays |= edit(index, image, label)
            files = {
                part: write_scan(Path(folder) / part / f"case_{index}", array, affine, channels=channels)
                for part, (array, affine) in arrays.items()
            }
            paths = {part: f"./{part}/{file.name}" for part, file in files.items()}
            items.append({"image": paths["imagesTr"], "label": paths["labelsTr"]})
        listing = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": items}
        (Path(folder) / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
        return Path(folder)

    return make


@pytest.fixture
def make_bundle(tmp_path):
    """Makes a bundle of the smallest files that an archive needs, beside what running leaves behind."""
    import torch

    from common.archive.verify import REQUIRED
    from common.spectral import SignatureBank, weights_digest
    from tests.common.banks import BOUND

    def make(name="organ", version="1.2.3", where=tmp_path / "bundles", **files):
        weights = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2)}
        texts = {path: "{}" for path in REQUIRED if not path.startswith(("models/", "scripts/common/"))}
        versions = {"monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.4.6"}
        texts["configs/metadata.json"] = json.dumps({"version": version} | versions)
        texts |= {"scripts/__pycache__/x.pyc": "", "output/a/metrics.json": ""} | files
        for path, text in texts.items():
            (where / name / path).parent.mkdir(parents=True, exist_ok=True)
            (where / name / path).write_text(text)
        (where / name / "models").mkdir(exist_ok=True)
        torch.save(weights, where / name / "models" / "model.pt")
        bank = SignatureBank.fit([[1.0, 0.0], [0.0, 1.0]], **BOUND | {"weights_digest": weights_digest(weights)})
        bank.save(where / name / "models" / "signature_bank.npz")
        return where / name

    return make


@pytest.fixture(scope="session")
def write_keys():
    """Writes ``private.pem`` and ``public.pem`` into a folder and returns their paths; Ed25519 unless told."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    def write(folder, kind=ed25519.Ed25519PrivateKey.generate, password=None):
        key = kind()
        lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        folder.mkdir(exist_ok=True)
        (folder / "private.pem").write_bytes(key.private_bytes(pem, pkcs8, lock))
        (folder / "public.pem").write_bytes(public)
        return str(folder / "private.pem"), str(folder / "public.pem")

    return write

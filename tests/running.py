"""The ways to run a bundle: in the process of the tests, and by the command line."""

import json
import logging
import os
import signal
import sys
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

TINY = {"network_def#features": [4, 8, 8, 8, 8, 4], "roi_size": [24, 24, 24], "phantom_cases": 4, "max_epochs": 1}
# All tiny cases have foreground.
TINY |= {"pretrain_epochs": 1, "healthy": "all", "noise_resolution": 4}
# In the first iteration alone.
TINY |= {"balance_interval": 0}
# Nine inferences for each of these.
TINY |= {"quality_cases": 0}
# Reads the data and times the network.
TINY |= {"planned": False}
"""Settings that make a run short; each is used where the config has it."""
REPRESENTATIVES = ("spectral_ood", "denoising_pretrain")
"""One bundle of volumes and one of pictures, whose readers differ most, for tests of shared code."""


def has_key(config, key):
    """Whether a config has a nested key."""
    for part in key.split("#"):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def _read(bundle, names):
    """The config files of a bundle, laid over one another."""
    from common.runtime.model_settings import with_defaults  # MONAI, see pytest_collection

    files = [str(Path(bundle) / "configs" / name) for name in ([names] if isinstance(names, str) else names)]
    content = {}
    for file in files:
        content |= json.loads(Path(file).read_text(encoding="utf-8"))
    return files, with_defaults(content)


def _settings(config, overrides):
    """Tiny settings that the config knows, below those given."""
    # What is null by default may not fit to the other defaults.
    tiny = {key: value for key, value in TINY.items() if has_key(config, key) and config.get(key, True) is not None}
    for key in tiny.keys() & {"roi_size", "network_def#features"}:
        length = config["spatial_dims"] if key == "roi_size" else len(config["network_def"]["features"])
        tiny[key] = tiny[key][:length]
    if "roi_size" in tiny:
        divisor, sizes = config.get("divisor", 1), tiny["roi_size"]
        divisors = divisor if isinstance(divisor, list) else [divisor] * len(sizes)
        sizes = map(min, sizes, config["roi_size"])
        tiny["roi_size"] = [-(-size // number) * number for size, number in zip(sizes, divisors, strict=True)]
    return tiny | overrides


@pytest.fixture(scope="session")
def tiny_settings():
    """The settings of tests for a config: ``tiny_settings(config)``."""
    from common.runtime.model_settings import with_defaults  # MONAI, see pytest_collection

    return lambda config: _settings(with_defaults(config), {})


@contextmanager
def importable(bundle, known=None):
    """Makes ``scripts`` the package of one bundle and forgets it afterwards, as MONAI Label does.

    ``known`` are modules that an earlier use has imported; those of this one are added.
    """

    def forget():
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "scripts"}

    path = list(sys.path)
    forget()
    sys.modules |= known or {}
    sys.path.insert(0, str(bundle))
    try:
        yield
    finally:
        sys.path[:] = path
        own = forget()
        if known is not None:
            known |= own


KNOWN = {}
"""Bundle -> its modules, which are imported once for all of its tests in a process."""


@pytest.fixture(scope="session")
def bundle_importable():
    """Makes ``scripts`` the package of a bundle, see :func:`importable`; its code is imported once for all tests."""
    return lambda bundle: importable(bundle, KNOWN.setdefault(bundle, {}))


@contextmanager
def pictures_blank():
    """Lets matplotlib write files without rendering."""
    from tests.pictures import write_blank  # matplotlib, which collecting the tests needs later

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", write_blank)
        yield


@pytest.fixture
def blank_pictures():
    """Leaves the pictures of a test blank, for one that does not look at them."""
    with pictures_blank():
        yield


@contextmanager
def run_of(bundle, *, pictures=False):
    """Makes a bundle importable for a run in this process, and restores what the run changes."""
    from monai.utils import set_determinism

    hook, filters = sys.excepthook, list(warnings.filters)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    records = logging.getLogRecordFactory()
    try:
        with importable(bundle, KNOWN.setdefault(bundle, {})), nullcontext() if pictures else pictures_blank():
            yield
    finally:
        sys.excepthook = hook
        warnings.filters[:] = filters
        logging.setLogRecordFactory(records)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        set_determinism(seed=None)


@pytest.fixture(scope="session")
def run_config():
    """Runs configs of a bundle in this process: ``run(bundle, "train.json", output_dir=...)``; tiny unless told.

    Its code is imported once for all runs of a bundle, as it is in a process that runs it again. Pictures are rendered
    where a test asks for it by ``pictures=True``.
    """
    from monai.bundle import run

    def start(bundle, names, run_id="run", *, tiny=True, pictures=False, **overrides):
        files, config = _read(bundle, names)
        plain = {"device": "cpu"} | {key: _plain(value) for key, value in overrides.items()}
        settings = _settings(config, plain) if tiny else plain
        with run_of(bundle, pictures=pictures):
            # The bundle's logging.conf would take pytest's handlers away.
            run(run_id=run_id, config_file=files, logging_file=False, **settings)

    return start


@pytest.fixture(scope="session")
def fail_config(run_config):
    """Runs configs that must fail and returns the bundle's own error, as the command line would report it."""

    def start(bundle, names, run_id="run", **overrides):
        # Any kind: MONAI wraps what a component raises.
        with pytest.raises(Exception) as caught:  # noqa: PT011
            run_config(bundle, names, run_id, **overrides)
        return own_error(caught.value)

    return start


def own_error(error):
    """The error of ours in a chain, found by name: ``scripts`` has been forgotten since it was raised."""
    while error is not None:
        if "BundleError" in [kind.__name__ for kind in type(error).__mro__]:
            assert "\n" not in str(error), "one line"
            return error
        error, last = error.__cause__ or error.__context__, error
    raise AssertionError(f"no error of ours, but {last!r}") from last


def _plain(value):
    return str(value) if isinstance(value, Path) else value


def _command(bundle, names, run_id="run", *, cwd=None, **overrides):
    """What comes after ``python``: ``monai.bundle`` with tiny settings; the configs' paths as seen from ``cwd``."""
    files, config = _read(bundle, names)
    files = [os.path.relpath(file, cwd) for file in files] if cwd else files
    options = {"config_file": files if len(files) > 1 else files[0]} | _settings(config, overrides)
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return ["-m", "monai.bundle", "run", run_id, *words]


@pytest.fixture(scope="session")
def bundle_command():
    """The command line of a run, see :func:`_command`; what ``run_config`` runs in this process."""
    return lambda bundle, names, run_id="run", **overrides: _command(bundle, names, run_id, device="cpu", **overrides)


@pytest.fixture(scope="session")
def run_command(start_python, run_ranks):
    """Runs ``python -m monai.bundle`` with tiny settings, as a user would, and returns the finished process.

    ``torchrun`` is where that starts so many processes; with ``ranks`` they are started without it, which takes less.
    """

    def start(
        bundle, names, run_id="run", *, cwd, check=True, torchrun=0, ranks=0, relative=False, env=None, file_size=None,
        pictures=False, **overrides,
    ):  # fmt: skip
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={torchrun}") if torchrun else ()
        command = [*launcher, *_command(bundle, names, run_id, cwd=cwd if relative else None, **overrides)]
        if ranks:
            results = run_ranks(command, ranks, cwd=cwd, env=env)
        else:
            results = [start_python(command, cwd=cwd, env=env, file_size=file_size, pictures=pictures).wait()]
        for result in results:
            assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return results[0]

    return start

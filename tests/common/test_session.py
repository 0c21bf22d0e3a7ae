import json
import logging
import random
import re
import signal
import sys
import time
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.utils import set_determinism

from common.errors import BundleError, ConfigError, ImageError
from common.runtime import distributed as session
from common.runtime.distributed import is_cuda, is_main_process, process_rank, world_size
from common.runtime.error_report import report_error
from common.runtime.interrupts import NAMES, Interrupts
from common.runtime.logs import PrintableRecord
from common.runtime.options import check_options
from common.runtime.reasons import error_line, find_bundle_error
from common.runtime.session import end_session, start_session


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Two config files, the second laid over the first, and one in YAML, in the current folder."""
    monkeypatch.chdir(tmp_path)
    train = {
        "max_epochs": 3,
        "learning_rate": 1e-4,
        "resume": True,
        "train": {"trainer": {"_target_": "Trainer", "max_epochs": "@max_epochs"}, "handlers": [{"a": 1}, {"b": 2}]},
    }
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "train.yaml").write_text("max_epochs: 3\ntrain:\n  handlers: [{a: 1}, {b: 2}]\n")
    (tmp_path / "multi_gpu.json").write_text(json.dumps({"backend": "nccl", "train#sampler": {"shuffle": True}}))


ONE = ["--config_file", "train.json"]
BOTH = ["--config_file", "['train.json','multi_gpu.json']"]
NEEDS_YAML = pytest.mark.skipif(find_spec("yaml") is None, reason="MONAI reads YAML with PyYAML, which is optional")
YAML = ["--config_file", "['train.yaml', 'multi_gpu.json']"]


@pytest.mark.parametrize(
    "arguments",
    [
        ONE,
        [*ONE, "--max_epochs", "5"],
        [*ONE, "--max_epochs=5", "--learning_rate=-1"],
        ["--config_file=train.json", "--run_id", "run", "--logging_file", "x", "--meta_file", "y"],
        [*ONE, "--train#trainer#max_epochs", "5"],
        [*ONE, "--train::trainer::max_epochs", "5"],
        [*ONE, "--train#trainer#amp", "true"],
        [*ONE, "--train#handlers#1#b", "5"],
        [*ONE, "--train#handlers#0#_disabled_", "true"],
        [*ONE, "--+train#handlers", "[]"],
        [*BOTH, "--max_epochs", "5", "--backend", "gloo"],
        ["--config_file", "['train.json', \"multi_gpu.json\"]", "--backend", "gloo"],
        [*BOTH, "--train#sampler", "x"],
        pytest.param([*YAML, "--max_epochs", "5", "--backend", "gloo", "--train#handlers#1#b", "5"], marks=NEEDS_YAML),
        [*ONE, "--resume", "False"],
        [*ONE, "--resume=true"],
        [*ONE, "--resume"],
        [*ONE, "--train#trainer#name", "off"],
        [*ONE, "--tracking", "mlflow", "--tracking_uri", "x", "--experiment_name=y", "--run_name", "z"],
    ],
)
def test_options_that_exist_pass(configs, arguments, monkeypatch):
    monkeypatch.setattr("common.runtime.options.find_spec", lambda name: name == "mlflow")
    check_options(["run", *arguments])
    check_options(["run", "training", *arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([*ONE, "--max_epoch", "5"], "unknown option --max_epoch: .*; did you mean --max_epochs"),
        ([*ONE, "--learningrate=1"], "unknown option --learningrate: .*; did you mean --learning_rate"),
        ([*ONE, "--zzz", "1"], "unknown option --zzz: no such key in the config files$"),
        ([*ONE, "--train#trainers#max_epochs", "5"], "--train#trainers#max_epochs"),
        ([*ONE, "--train#handlers#2#b", "5"], "--train#handlers#2#b"),
        ([*ONE, "--train#handlers#b", "5"], "--train#handlers#b"),
        ([*ONE, "--max_epochs#value", "5"], "--max_epochs#value"),
        ([*ONE, "--backend", "gloo"], "unknown option --backend"),
        ([*BOTH, "--backends", "gloo"], "did you mean --backend"),
        pytest.param([*YAML, "--max_epoch", "5"], "unknown option --max_epoch: .*--max_epochs", marks=NEEDS_YAML),
        pytest.param([*YAML, "--train#handlers#2#b", "5"], "--train#handlers#2#b", marks=NEEDS_YAML),
        ([*ONE, "--tracking_url", "x"], "unknown option --tracking_url"),
    ],
)
def test_option_that_no_config_has_is_named_with_the_nearest(configs, arguments, text):
    with pytest.raises(ConfigError, match=text) as caught:
        check_options(["run", *arguments])
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "option", [["--resume", "false"], ["--resume=false"], ["--resume", "FALSE", "--max_epochs", "5"], ["--resume=no"]]
)
def test_false_that_would_count_as_true_is_refused(configs, option):
    with pytest.raises(ConfigError, match=r"^--resume \w+ is a text, which would count as true; write --resume False$"):
        check_options(["run", *ONE, *option])


def test_tracking_names_the_package_that_it_needs(configs, monkeypatch):
    monkeypatch.setattr("common.runtime.options.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^--tracking mlflow needs the package mlflow, .*: pip install mlflow$"):
        check_options(["run", *ONE, "--tracking=mlflow"])


def test_configs_are_read_as_monai_reads_them(configs, monkeypatch):
    files = {"train.yaml": {"max_epochs": 3}, "multi_gpu.json": {"backend": "nccl"}}
    monkeypatch.setattr("common.runtime.options.ConfigParser.load_config_file", files.__getitem__)
    check_options(["run", *YAML, "--max_epochs", "5", "--backend", "gloo"])
    with pytest.raises(ConfigError, match="did you mean --backend"):
        check_options(["run", *YAML, "--backends", "gloo"])


@pytest.mark.parametrize("arguments", [[], ["-q", "--unknown"], ["download", "--name", "x"], ["run", "--unknown", "1"]])
def test_other_command_lines_pass(arguments):
    check_options(arguments)


def chained():
    """What MONAI makes of an error of ours: its own around it, several times."""
    try:
        try:
            try:
                raise OSError("disk")
            except OSError as error:
                raise ImageError("case 'x':\n  image   is broken") from error
        except ImageError as error:
            raise RuntimeError("applying transform <object>") from error
    except RuntimeError:
        try:
            raise KeyError("on top")
        except KeyError as error:
            return error


def test_our_error_is_picked_out_of_a_chain():
    assert error_line(chained()) == "case 'x': image is broken"
    assert isinstance(find_bundle_error(chained()), ImageError)


def test_innermost_error_is_told_without_one_of_ours():
    error = RuntimeError("outer")
    error.__cause__ = ValueError("the\n  reason")
    assert error_line(error) == "ValueError: the reason"
    assert error_line(KeyError("x")) == "KeyError: 'x'"
    assert find_bundle_error(error) is None


def test_our_error_is_reported_in_one_line(capsys):
    error = chained()
    report_error(type(error), error, None)
    assert capsys.readouterr().err == "error: case 'x': image is broken\n"


@pytest.fixture(autouse=True)
def one_line(monkeypatch):
    monkeypatch.delenv("BUNDLE_TRACEBACK", raising=False)


def test_our_error_is_reported_in_full_when_the_environment_asks(capsys, monkeypatch):
    monkeypatch.setenv("BUNDLE_TRACEBACK", "1")
    error = chained()
    report_error(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "Traceback (most recent call last):" in text
    for name in ("OSError: disk", "ImageError: case 'x':", "RuntimeError: applying transform", "KeyError: 'on top'"):
        assert name in text
    assert "error: case" not in text


def test_our_error_takes_one_line_however_much_is_logged(capsys, caplog):
    error = chained()
    with caplog.at_level("DEBUG"):
        report_error(type(error), error, None)
    assert capsys.readouterr().err == "error: case 'x': image is broken\n"


def test_other_errors_are_reported_in_full(capsys):
    report_error(ZeroDivisionError, ZeroDivisionError("by zero"), None)
    assert capsys.readouterr().err == "ZeroDivisionError: by zero\n"


@pytest.fixture
def command_line(monkeypatch):
    """Restores what a session changes."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    records = logging.getLogRecordFactory()
    handlers = {number: signal.getsignal(number) for number in NAMES}
    yield lambda *arguments: monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
    logging.setLogRecordFactory(records)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    set_determinism(seed=None)


def test_only_what_goes_wrong_in_ignite_is_logged(command_line, caplog):
    logging.getLogger().setLevel(logging.INFO)
    start_session(0)
    caplog.clear()
    Engine(lambda engine, batch: None).run([0], max_epochs=1)
    assert caplog.messages == []
    with pytest.raises(ZeroDivisionError):
        Engine(lambda engine, batch: 1 / 0).run([0], max_epochs=1)
    assert "division by zero" in caplog.text


def test_session_makes_every_generator_start_from_the_seed(command_line):
    command_line()

    def draw(seed):
        start_session(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 what MONAI seeds

    assert draw(1) == draw(1)
    assert all(a != b for a, b in zip(draw(1), draw(2), strict=True))
    assert sys.excepthook is report_error
    assert logging.getLogRecordFactory() is PrintableRecord
    assert all(isinstance(signal.getsignal(number), Interrupts) for number in NAMES)


@pytest.fixture
def joined(monkeypatch):
    """What a session does to join a group of processes, in place of doing it."""
    calls = []
    monkeypatch.setattr(session.torch.cuda, "set_device", lambda device: calls.append(str(device)))
    monkeypatch.setattr(session.dist, "init_process_group", calls.append)
    monkeypatch.setattr(session.dist, "is_nccl_available", lambda: True)
    return calls


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, []),
        ({"device": "cuda:1"}, []),
        ({"distributed": True}, ["gloo"]),
        ({"distributed": True, "device": "cpu"}, ["gloo"]),
        ({"distributed": True, "device": torch.device("cuda", 1)}, ["cuda:1", "nccl"]),
        ({"distributed": True, "device": "cuda:0"}, ["cuda:0", "nccl"]),
    ],
)
def test_device_decides_how_processes_talk(command_line, joined, settings, calls):
    command_line()
    start_session(0, **settings)
    assert joined == calls


def test_processes_on_gpus_talk_without_nccl_where_there_is_none(command_line, joined, monkeypatch):
    command_line()
    monkeypatch.setattr(session.dist, "is_nccl_available", lambda: False)
    start_session(0, distributed=True, device="cuda:0")
    assert joined == ["cuda:0", "gloo"]


def test_session_checks_the_command_line_first(command_line, configs):
    command_line("run", *ONE, "--max_epoch", "5")
    with pytest.raises(BundleError, match=re.escape("did you mean --max_epochs?")):
        start_session(0)


def test_single_process_is_the_main_one():
    assert (process_rank(), world_size(), is_main_process()) == (0, 1, True)
    end_session()


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("cuda:1", True), (torch.device("cuda"), True)])
def test_cuda_is_told_from_the_device(device, expected):
    assert is_cuda(device) is expected


def test_error_waits_for_threads_that_still_work_alone(capsys):
    """Python's end would abort the process in the middle of what they do; those without work may go on to wait."""
    done, error = [], ConfigError("told")
    with ThreadPool(2) as idle:
        with ThreadPool(2) as pool:
            pool.apply_async(lambda: (time.sleep(0.3), done.append(1)))
            time.sleep(0.1)
        assert not done, "an error leaves a pool at work"
        start = time.perf_counter()
        report_error(ConfigError, error, None)
        assert done == [1]
        assert idle.apply(len, ("ab",)) == 2
        assert time.perf_counter() - start < 10
    assert capsys.readouterr().err == "error: told\n"

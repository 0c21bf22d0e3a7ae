"""What every bundle must do in two processes."""

import json

import pytest
import torch

from tests.bundles.models import assert_same_models, tensors
from tests.bundles.ranks import read_states, write_spy
from tests.running import REPRESENTATIVES


@pytest.fixture(scope="session")
def two_processes(bundle, configs, dataset, run_command, tmp_path_factory):
    """Training by two processes, from a folder that has nothing to do with the bundle.

    One bundle is started by ``torchrun``, the others by what starts the same processes faster.
    """
    output = tmp_path_factory.mktemp("two")
    started = {"torchrun": 2} if bundle.name == REPRESENTATIVES[0] else {"ranks": 2}
    blocks = [block for block in configs["multi_gpu_train"].values() if isinstance(block, dict)]
    overlay = write_spy(output, [block["network"] for block in blocks if "network" in block], with_buffers=False)
    run_command(
        bundle, ["train.json", "multi_gpu_train.json", overlay], cwd=output, **started,
        dataset_dir=dataset, output_dir=output, model_dir=output / "m", env={"PYTHONPATH": str(output)},
    )  # fmt: skip
    return output


def test_two_processes_train(two_processes, judges):
    files = {path.relative_to(two_processes).as_posix() for path in two_processes.rglob("*")}
    assert files >= {"metrics.json", "checkpoint.pt", "m/model.pt"} | ({"m/signature_bank.npz"} if judges else set())
    assert not [name for name in tensors(two_processes / "m" / "model.pt") if name.startswith("module.")]
    assert len(json.loads((two_processes / "metrics.json").read_text())["epochs"]) == 1


def test_two_processes_hold_the_same_networks(two_processes):
    """Each has seen other cases, and the gradients are averaged."""
    first, second = read_states(two_processes)
    assert first
    assert all(first)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_one_process_fits_the_bank_that_two_fit(bundle, configs, two_processes, dataset, run_config):
    if "fit_bank" not in configs["train"]:
        pytest.skip("this bundle fits no bank")
    bank = two_processes / "m" / "signature_bank.npz"
    by_two = bank.read_bytes()
    bank.unlink()
    run_config(
        bundle, "train.json", "fit_bank", dataset_dir=dataset, output_dir=two_processes,
        model_dir=two_processes / "m",
    )  # fmt: skip
    assert bank.read_bytes() == by_two


@pytest.mark.two_bundles
def test_two_processes_fit_the_bank_alone(bundle, configs, trained, dataset, run_command, tmp_path):
    if "fit_bank" not in configs["train"]:
        pytest.skip("this bundle fits no bank")
    (tmp_path / "model.pt").write_bytes((trained.models / "model.pt").read_bytes())
    run_command(
        bundle, ["train.json", "multi_gpu_train.json"], "fit_bank", cwd=tmp_path, ranks=2,
        dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=tmp_path,
    )  # fmt: skip
    assert_same_models(tmp_path, trained.models)

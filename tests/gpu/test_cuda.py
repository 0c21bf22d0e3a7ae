"""What needs a CUDA device: the same results as on the CPU, and training steps that never wait for the device."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

BUNDLES = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "bundles").glob("*/configs"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
WARM_UP, STEPS = 3, 5


@pytest.fixture(params=[pytest.param(path, id=path.name) for path in BUNDLES])
def bundle(request):
    return request.param


@pytest.fixture
def data(bundle, shape_of, make_dataset, tmp_path):
    """A folder of tiny scans of the kind that the bundle takes."""
    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    return make_dataset(tmp_path / "organ", **shape_of(config))


@pytest.fixture
def exact():
    """Convolutions in full float32, as on the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def parser_of(bundle, name, **overrides):
    content = json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    return ConfigParser(content | overrides)


@pytest.mark.usefixtures("exact")
def test_segmentation_and_signature_agree_with_the_cpu(bundle, bundle_importable):
    with bundle_importable(bundle):
        parser = parser_of(bundle, "inference")
        torch.manual_seed(0)
        network, inferer = (parser.get_parsed_content(name) for name in ("network_def", "inferer"))
        dims, channels = (parser.get_parsed_content(name) for name in ("spatial_dims", "in_channels"))
        image = torch.randn(1, channels, *(70, 57, 49)[:dims])
        results = []
        for device in ("cpu", "cuda"):
            with torch.no_grad():
                results.append(inferer(image.to(device), network.to(device).eval()))
    on_cpu, on_gpu = results
    if not isinstance(on_cpu, dict):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)
        return
    torch.testing.assert_close(on_gpu["logits"].cpu(), on_cpu["logits"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_gpu["signature"], on_cpu["signature"], rtol=1e-3, atol=1e-5)
    assert torch.equal(on_gpu["weights_digest"], on_cpu["weights_digest"])
    agreement = ((on_gpu["logits"].cpu() > 0) == (on_cpu["logits"] > 0)).float().mean()
    assert agreement > 0.999


@pytest.mark.usefixtures("exact")
def test_verdict_of_the_cpu_holds_on_the_gpu(bundle, run_config, data, tmp_path):
    models = tmp_path / "models"
    run_config(bundle, "train.json", dataset_dir=data, output_dir=tmp_path, model_dir=models)
    rows = []
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        run_config(bundle, "inference.json", dataset_dir=data, model_dir=models, output_dir=output, device=device)
        rows.append(json.loads((output / "ood_report.json").read_text(encoding="utf-8"))["rows"])
    for on_cpu, on_gpu in zip(*rows, strict=True):
        assert on_gpu["oodm"] == pytest.approx(on_cpu["oodm"], rel=1e-2, abs=1e-5)
        assert on_gpu["threshold"] == on_cpu["threshold"]


def test_training_steps_do_not_wait_for_the_device(bundle, bundle_importable, data, tmp_path):
    """After a warm-up, no step of the bundle's own network, loss, optimizer, schedule and metric synchronizes."""
    with bundle_importable(bundle):
        parser = parser_of(
            bundle, "train", device="cuda", dataset_dir=str(data), output_dir=str(tmp_path), schedule_interval=1000
        )
        if "step" in parser["train"]:
            pytest.skip("an iteration of its own, tested in test_cuda_cotraining.py and test_cuda_contrast.py")
        names = ("network", "loss", "optimizer", "schedule")
        network, loss, optimizer, schedule = (parser.get_parsed_content(name) for name in names)
        metric = parser.get_parsed_content("train#key_metric") if "key_metric" in parser["train"] else {}
        shape = (2, parser["in_channels"], *[32] * parser["spatial_dims"])
        batch = {
            "image": torch.randn(shape, device="cuda"),
            "label": (torch.rand(2, parser["out_channels"], *shape[2:], device="cuda") > 0.5).float(),
        }
        if parser["loss"].get("to_onehot_y"):
            batch["label"] = batch["label"][:, :1]
        trainer = SupervisedTrainer(
            device=torch.device("cuda"), max_epochs=1, train_data_loader=[batch] * (WARM_UP + STEPS), network=network,
            optimizer=optimizer, loss_function=loss, additional_metrics=metric, key_train_metric=None, amp=True,
            amp_kwargs={"dtype": torch.bfloat16}, decollate=False, optim_set_to_none=True,
            # Schedules of torch have nothing to do within an epoch.
            train_handlers=[schedule] if hasattr(schedule, "attach") else [],
        )  # fmt: skip
        watched = watch_steps(trainer, metric)
        try:
            trainer.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert watched == list(range(WARM_UP + 1, WARM_UP + STEPS + 1))
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def watch_steps(trainer, metric):
    """Makes any synchronization after the warm-up an error, up to the last step; returns the steps watched."""
    from ignite.engine import Events

    for name, item in metric.items():
        if name not in trainer.state.metrics:
            # MONAI attaches additional metrics only beside a key metric.
            item.attach(trainer, name)
    watched = []

    def before(engine):
        if engine.state.iteration > WARM_UP:
            watched.append(engine.state.iteration)
            torch.cuda.set_sync_debug_mode("error")

    def after(engine):
        if engine.state.iteration == WARM_UP + STEPS:
            torch.cuda.set_sync_debug_mode("default")

    trainer.add_event_handler(Events.ITERATION_STARTED, before)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, after)
    return watched


def test_training_runs_on_the_gpu(bundle, run_config, data, tmp_path):
    run_config(
        bundle,
        "train.json",
        dataset_dir=data,
        output_dir=tmp_path,
        model_dir=tmp_path / "m",
        device="cuda",
        max_epochs=1,
    )
    state = torch.load(tmp_path / "m" / "model.pt", weights_only=True, map_location="cpu")
    assert all(value.isfinite().all() for value in state.values())


def test_one_process_trains_with_nccl(bundle, run_command, data, tmp_path):
    run_command(
        bundle, ["train.json", "multi_gpu_train.json"], cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": "0"}, torchrun=1,
        dataset_dir=data, output_dir=tmp_path / "out", model_dir=tmp_path / "m",
    )  # fmt: skip
    assert (tmp_path / "m" / "model.pt").is_file()

"""What ``classwise_contrastive`` promises beyond the contract: its methods, and how they are measured."""

import json
import os
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from tests.bundles.classwise_contrastive.frames import BUNDLE, epochs_of, write_frames

METHODS = ["unet", "simclr", "byol", "classification", "contrastive", "both"]


TERMS = {
    "unet": set(),
    "simclr": {"contrastive"},
    "byol": {"contrastive"},
    "classification": {"classification"},
    "contrastive": {"contrastive"},
    "both": {"contrastive", "classification"},
}


class TestMethods:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_one_key(self, train, method):
        out = train(method=method, max_epochs=2, presence_weight=0.0)
        found = {key for key in epochs_of(out)[0] if key.startswith("loss_")}
        assert found == {"loss_segmentation"} | {f"loss_{name}" for name in TERMS[method]}
        assert (out / "m" / "signature_bank.npz").is_file()
        state = torch.load(out / "m" / "model.pt", weights_only=True)
        shipped = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
        assert set(state) == set(shipped), "a plain network, without heads"

    def test_known_classes_teach_the_segmentation_by_default(self, train):
        assert "loss_presence" in epochs_of(train(max_epochs=2))[0]

    def test_two_steps_are_one_key(self, train):
        out = train(two_step=True, max_epochs=3, pretrain_epochs=1)
        epochs = epochs_of(out)
        assert [epoch["loss_segmentation"] > 0 for epoch in epochs] == [False, True, True]
        assert [epoch["loss_contrastive"] > 0 for epoch in epochs] == [True, False, False]
        state = torch.load(out / "checkpoint.pt", weights_only=True)["network"]
        best = torch.load(out / "m" / "model.pt", weights_only=True)
        encoder = [name for name in best if name.split(".")[0] in ("conv_0", "down_1", "down_4")]
        assert encoder
        assert all(torch.equal(state[f"network.{name}"], best[name]) for name in encoder), "frozen"

    def test_resumed_two_steps_equal_uninterrupted_ones(self, train):
        whole = train("whole", method="byol", max_epochs=3, pretrain_epochs=2)
        train("cut", method="byol", max_epochs=3, pretrain_epochs=2, **{"train#trainer#max_epochs": 1})
        cut = train("cut", method="byol", max_epochs=3, pretrain_epochs=2, resume=True)
        first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, cut))
        for member in ("network", "step"):
            torch.testing.assert_close(second[member], first[member], rtol=0, atol=0)
        assert epochs_of(whole) == epochs_of(cut)

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"method": "moco"}, "method is 'moco'; accepted are unet, simclr, byol"),
            ({"labeled_by": "clip"}, "labeled_by is 'clip'; accepted are frame and patient"),
            ({"labeled_fraction": 2}, "labeled_fraction is 2; accepted is above 0, up to 1"),
            ({"batch_size": 1}, "batch_size is 1; a pair needs two frames"),
            ({"temperature": 0}, "temperature is 0; accepted are numbers above 0"),
            (
                {"encoder_layers": ["down_7"]},
                "encoder_layers names 'down_7', which the network does not have; it has: conv_0",
            ),
            (
                {"two_step": True, "max_epochs": 1, "pretrain_epochs": 1},
                "pretrain_epochs is 1 of max_epochs 1; accepted is 1 to max_epochs - 1",
            ),
            ({"two_step": True, "method": "unet"}, "method 'unet' has nothing to train an encoder with"),
        ],
    )
    def test_choices_that_do_not_exist_are_refused(self, fail, settings, text):
        assert text in str(fail(**settings))

    def test_settings_are_those_that_the_page_names(self, bundle_importable):
        content = json.loads((BUNDLE / "configs" / "train.json").read_text())
        values = {name: content[name] for name in ("alpha", "beta", "temperature", "projection_size")}
        assert values == {"alpha": 0.1, "beta": 0.1, "temperature": 0.1, "projection_size": 128}
        with bundle_importable(BUNDLE):
            network = ConfigParser(content).get_parsed_content("network_def")
        assert len(content["encoder_layers"]) == 5
        assert all(network.get_submodule(name) for name in content["encoder_layers"])


class TestEvaluation:
    def test_figures_and_measures_of_classes(self, train, run_config, folder, tmp_path):
        out = train(test_fraction=0.25, out_channels=3)
        run_config(
            BUNDLE, "evaluate.json", pictures=True,
            dataset_dir=folder, split_file=out / "split.json", model_dir=out / "m", output_dir=tmp_path / "e",
        )  # fmt: skip
        for name in ("per_class", "overlays", "embeddings"):
            assert (tmp_path / "e" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        report = json.loads((tmp_path / "e" / "metrics.json").read_text())
        measures = report["test_set"]["per_class"]
        assert set(measures) == {"1", "2"}
        assert all(
            0 <= figures["iou"] <= figures["dsc"] <= 1 for figures in measures.values() if figures["iou"] is not None
        )
        embeddings = json.loads((tmp_path / "e" / "embeddings.json").read_text())
        assert embeddings["frames"] == 4
        assert {"before", "after", "layer"} <= set(embeddings)

    def test_training_brings_frames_of_the_same_classes_together(self, train, run_config, tmp_path):
        """Contrast alone, long enough: the nearest frame of the test set shows the same classes more often."""
        data = write_frames(tmp_path / "many" / "frames", 32, videos=8)
        out = train(
            dataset_dir=data, method="contrastive", labeled_fraction=0.2, test_fraction=0.25, max_epochs=6,
            samples_per_epoch=48, batch_size=12, learning_rate=0.01, val_interval=6, rotation=0, scaling=0.0,
        )  # fmt: skip
        run_config(
            BUNDLE, "evaluate.json", dataset_dir=data, split_file=out / "split.json", model_dir=out / "m",
            output_dir=tmp_path / "e",
        )  # fmt: skip
        losses = [epoch["loss_contrastive"] for epoch in epochs_of(out)]
        assert losses[-1] < 0.8 * losses[0]
        found = json.loads((tmp_path / "e" / "embeddings.json").read_text())
        assert found["after"]["nearest"] > found["after"]["chance"] + 0.2


def test_two_processes_hold_the_same_networks_without_some_parts(states_of_two_processes, folder):
    """Each rank writes its state: gradients are averaged also where steps leave out parts of the network."""
    settings = {"labeled_fraction": 0.5, "samples_per_epoch": 8, "batch_size": 4, "val_fraction": 0.25}
    (first,), (second,) = states_of_two_processes(
        BUNDLE, ["@headed_def"], with_buffers=False, dataset_dir=folder, max_epochs=2, method="byol", **settings
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first


DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="MEDICAL_DATA_DIR names no folder of real scans")
def test_labeled_frames_of_one_operation_can_be_learned_by_heart(run_config, tmp_path):
    """Seven frames of one video: a smoke test on real pictures, not a figure."""
    listing = json.loads((DATA / "laparoscopy" / "dataset.json").read_text())
    items = listing["training"]
    for index, item in enumerate(items):
        item["patient"] = f"frame {index}"  # of one video: nothing else could be split
        item |= {key: str(DATA / "laparoscopy" / item[key]) for key in ("image", "label")}
    folder = tmp_path / "laparoscopy"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(listing))
    run_config(
        BUNDLE, "train.json", tiny=False, dataset_dir=folder, output_dir=tmp_path / "out", model_dir=tmp_path / "m",
        labeled_fraction=1, labeled_batch_fraction=1, out_channels=3, roi_size=[64, 48], batch_size=6,
        samples_per_epoch=60, max_epochs=8, val_fraction=0.1, learning_rate=0.01,
        **{"network_def#features": [8, 8, 16, 16, 32, 8]},
    )  # fmt: skip
    losses = [epoch["loss_segmentation"] for epoch in epochs_of(tmp_path / "out")]
    assert losses[-1] < 0.75 * losses[0]

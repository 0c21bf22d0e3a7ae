"""What ``denoising_pretrain`` promises of its stages: each is skipped when done, and lost alone when killed."""

import pytest

from tests.bundles.denoising_pretrain.spots import SHORT, SLICES, assert_same_weights

STAGES = ("pretrain", "localize", "finetune")


def assert_same_run(first, second):
    """Weights, bank and reported figures are equal bit for bit."""
    for name in ("m/signature_bank.npz", "metrics.json", "pretrain/metrics.json", "localization.json", "split.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("m/model.pt", "m/denoiser.pt", "pretrain/denoiser.pt"):
        assert_same_weights(first / name, second / name)


TRAINING = """
from scripts.common.engine.course import Course

def train(self, *arguments, **settings):
    if self.best.path.endswith({weights!r}):
        kill_in_second_epoch(self.trainer)
    plain(self, *arguments, **settings)

plain, Course.run = Course.run, train
"""


WITHIN = {
    "pretrain": TRAINING.format(weights="denoiser.pt"),
    # It draws when the report is written.
    "localize": "from scripts.common.denoising import training; training.draw_anomaly_maps = kill",
    "finetune": TRAINING.format(weights="model.pt"),
}
"""Where to kill within a stage; see ``run_killed``."""


@pytest.fixture
def killed(run_killed, bundle_folder, slices):
    """A training in a process that is killed; returns the stages that it began."""

    def start(folder, **settings):
        given = {"dataset_dir": slices, "output_dir": folder, "model_dir": folder / "m", "num_labeled_patients": 2}
        return run_killed(bundle_folder, **(given | SHORT | settings))

    return start


class TestStages:
    def test_whole_run_writes_what_the_stages_say(self, trained):
        files = {path.relative_to(trained).as_posix() for path in trained.rglob("*")}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= own | {f"pretrain/{name}" for name in (*own, "denoiser.pt")}
        assert files >= {"localization.json", "anomaly_maps.png", "split.json"}
        assert files >= {"m/model.pt", "m/denoiser.pt", "m/signature_bank.npz"}
        assert_same_weights(trained / "m" / "denoiser.pt", trained / "pretrain" / "denoiser.pt")

    def test_denoiser_is_measured_before_any_label_is_learned(self, trained, read_json):
        report = read_json(trained / "localization.json")
        assert report["part"] == "validation"
        assert (report["patients"], report["slices"]) == (1, SLICES)
        assert 0 < report["prevalence"] < report["best_dice"] <= 1
        assert 0 < report["average_precision"] <= 1
        assert "chosen by their labels" in report["threshold_is"]
        assert set(report["intensity"]) == {"mean of channels", "channel 0", "channel 1", "channel 2"}
        assert set(report["brighter"]) == {"channel 0", "channel 1", "channel 2"}
        assert (
            report["intensity"]["channel 1"]["average_precision"]
            > report["intensity"]["channel 0"]["average_precision"]
        )

    def test_fine_tuning_may_start_from_a_shorter_pre_training(self, train, read_json, caplog):
        """One pre-training for all doses; each is measured, and is what fine-tuning starts from."""
        caplog.set_level("INFO")
        dose = {"pretrain_checkpoints": [1, 2], "head_share": 0.5, "body_rate": 0.3, "more_resolutions": [4]}
        for iteration in (1, 2):
            folder = train(denoiser_iteration=iteration, **dose)
            assert_same_weights(folder / "m" / "denoiser.pt", folder / "pretrain" / f"denoiser_{iteration}.pt")
            measured = read_json(folder / f"localization_{iteration}.json")["measures"]
            assert read_json(folder / "anomalies.json")["measures"] == measured
            assert {"ap_denoiser", "ap_channel_1", "ap_pca", "ap_atlas"} <= measured.keys()
        assert caplog.text.count("stage pretrain: starts") == 1
        assert caplog.text.count("stage finetune: starts") == 2

    def test_other_starts_are_named(self, fail, slices):
        error = fail(slices, denoiser_iteration=3, pretrain_checkpoints=[1, 2])
        assert "denoiser_iteration is 3; accepted are those of pretrain_checkpoints, [1, 2]" in str(error)

    def test_stages_alone_give_the_same_as_the_whole(self, train, trained):
        for stage in STAGES:
            folder = train(stage)
        for name in ("m/model.pt", "m/denoiser.pt"):
            assert_same_weights(folder / name, trained / name)
        assert (folder / "m/signature_bank.npz").read_bytes() == (trained / "m/signature_bank.npz").read_bytes()

    def test_second_run_is_skipped_and_a_changed_option_is_not(self, train, caplog):
        caplog.set_level("INFO")
        train()
        caplog.clear()
        train()
        assert [stage for stage in STAGES if f"stage {stage}: skipped" in caplog.text] == list(STAGES)
        caplog.clear()
        train(num_labeled_patients=1)
        assert [stage for stage in STAGES if f"stage {stage}: skipped" in caplog.text] == ["pretrain", "localize"]
        assert "stage finetune: starts (labeled changed)" in caplog.text
        caplog.clear()
        train("finetune", num_labeled_patients=1, **{"loss#include_background": True})
        assert "stage finetune: starts (settings changed)" in caplog.text
        caplog.clear()
        train("pretrain", noise_sd=0.3)
        assert "stage pretrain: starts (settings changed)" in caplog.text

    @pytest.mark.parametrize(
        ("settings", "changed"),
        [
            ({"residual": False}, "settings"),
            ({"val_interval": 2, "pretrain_epochs": 2, "max_epochs": 2}, "length, settings"),
            ({"noise_resolution": 8}, "settings"),
            ({"clear_border": False}, "preparation"),
            ({"healthy": "all"}, "healthy slices"),
        ],
        ids=str,
    )
    def test_denoiser_of_other_options_is_not_taken(
        self, bundle_folder, fail_config, slices, trained, tmp_path, settings, changed
    ):
        given = {"dataset_dir": slices, "pretrain_dir": trained, "output_dir": tmp_path, "model_dir": tmp_path / "m"}
        error = fail_config(bundle_folder, "train.json", "localize", **(SHORT | given | settings))
        words = ", ".join(f"{name} changed" for name in changed.split(", "))
        assert f"stage pretrain is not done for these inputs ({words})" in str(error)

    def test_denoiser_of_another_device_is_taken(self, train, trained, caplog):
        """On a GPU it would have been trained in bfloat16."""
        caplog.set_level("INFO")
        train("localize", pretrain_dir=trained, **{"denoise#trainer#amp": True})
        assert "stage localize: skipped" in caplog.text

    def test_killed_within_any_stage_it_repeats_that_alone(self, killed, train, tmp_path):
        """By SIGKILL: in a second epoch, with weights of the first; when the report is written, but not the figure."""
        epochs = {"pretrain_epochs": 2, "max_epochs": 2}
        folder, begun = tmp_path / "killed", []
        written = {"pretrain": "pretrain/checkpoint.pt", "localize": "localization.json", "finetune": "checkpoint.pt"}
        for where in STAGES:
            begun += killed(folder, patch=WITHIN[where], **epochs)
            assert (folder / written[where]).is_file()
            assert not (folder / "stages" / f"{where}.json").exists()
        begun += killed(folder, **epochs)
        assert begun == [stage for stage in STAGES for _ in range(2)]
        assert_same_run(folder, train(**epochs))

    def test_stage_before_must_be_done(self, bundle_folder, fail_config, slices, tmp_path):
        given = SHORT | {"dataset_dir": slices, "output_dir": tmp_path, "model_dir": tmp_path / "m"}
        for stage in ("localize", "finetune"):
            error = fail_config(bundle_folder, "train.json", stage, **given)
            assert "stage pretrain is not done for these inputs" in str(error)

    def test_runs_may_share_a_denoiser(self, train, trained, caplog):
        caplog.set_level("INFO")
        folder = train(pretrain_dir=trained, num_labeled_patients=1)
        assert "stage pretrain: skipped" in caplog.text, "labels of patients do not matter to the denoiser"
        assert not (folder / "pretrain").exists()
        assert_same_weights(folder / "m" / "denoiser.pt", trained / "m" / "denoiser.pt")

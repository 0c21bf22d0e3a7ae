"""What ``denoising_pretrain`` promises beyond the contract: few labels, its options, bad input."""

import json

import pytest
import torch

from tests.bundles.denoising_pretrain.spots import weights, write_slices


@pytest.fixture
def ill(tmp_path):
    """Slices that all show something."""

    def edit(patient, number, image, label):
        label = label.copy()
        label[18:21, 18:21] = 1
        return image, label

    return write_slices(tmp_path / "ill", edit=edit)


class TestFineTuning:
    def test_from_scratch_takes_the_same_schedule_without_a_denoiser(self, train, trained, caplog, read_json):
        caplog.set_level("INFO")
        # A text, as "--pretrained false" gives it.
        folder = train(pretrained="false")
        assert "stage pretrain" not in caplog.text
        assert not (folder / "m" / "denoiser.pt").exists()
        first, second = (read_json(path / "metrics.json")["epochs"] for path in (folder, trained))
        assert [epoch["learning_rate"] for epoch in first] == [epoch["learning_rate"] for epoch in second]
        assert [len(epoch) for epoch in first] == [len(epoch) for epoch in second]
        pair = weights(folder / "m" / "model.pt"), weights(trained / "m" / "model.pt")
        assert any(not torch.equal(pair[0][name], pair[1][name]) for name in pair[0])

    def test_given_weights_are_the_start_and_leave_nothing_to_pre_train(self, train, trained, ill, caplog):
        """Without a healthy slice, too; as MONAI Label has it, which loads the weights that are there."""
        caplog.set_level("INFO")
        given = trained / "m" / "model.pt"
        folder = train(dataset_dir=ill, initial_weights=given, learning_rate=0.0)
        assert f"fine-tuning starts from {given}: no denoiser is trained" in caplog.text
        assert "stage pretrain" not in caplog.text
        assert not list(folder.rglob("denoiser.pt"))
        first, second = weights(given), weights(folder / "m" / "model.pt")
        assert all(torch.equal(first[name], second[name]) for name in first if name.endswith(("weight", "bias")))

    def test_from_scratch_needs_no_healthy_slice(self, train, ill):
        assert (train(dataset_dir=ill, pretrained=False) / "m" / "model.pt").is_file()

    def test_denoiser_guides_the_segmentation(self, train):
        folder = train(learning_rate=0.0)
        denoiser, network = weights(folder / "m" / "denoiser.pt"), weights(folder / "m" / "model.pt")
        for name, value in denoiser.items():
            torch.testing.assert_close(network[f"guide.{name}"], value, rtol=0, atol=0)
        assert network["first.conv_0.conv.weight"].shape[1] == 2 * denoiser["first.conv_0.conv.weight"].shape[1]

    def test_fine_tuning_starts_from_the_denoiser(self, train):
        folder = train(learning_rate=0.0, guided=False)
        denoiser, network = weights(folder / "m" / "denoiser.pt"), weights(folder / "m" / "model.pt")
        # Running means go on by themselves.
        learned = [name for name in network if not name.startswith("head.") and name.endswith(("weight", "bias"))]
        assert len(learned) > 20
        for name in learned:
            torch.testing.assert_close(network[name], denoiser[name], rtol=0, atol=0)
        assert network["head.weight"].shape[0] == 2
        assert denoiser["head.weight"].shape[0] == 3

    def test_without_labels_the_denoiser_is_the_result(self, train, caplog):
        caplog.set_level("INFO")
        folder = train(num_labeled_patients=0, normalization="deciles", clear_border=False)
        assert "no labeled patient: the denoiser's anomaly score is the result" in caplog.text
        assert (folder / "m" / "denoiser.pt").is_file()
        assert (folder / "localization.json").is_file()
        assert not (folder / "m" / "model.pt").exists()
        assert (folder / "m" / "intensity_landmarks.json").is_file(), "beside the denoiser"

    def test_steps_of_pre_training_are_counted(self, train):
        """In place of passes over the slices, and whatever fine-tuning counts."""
        folder = train("pretrain", samples_per_epoch=None, pretrain_epochs=2, pretrain_iterations=6, iterations=2)
        assert weights(folder / "pretrain" / "checkpoint.pt")["progress"]["iteration"] == 6

    def test_several_classes(self, train, tmp_path, read_json):
        def edit(patient, number, image, label):
            return image, label * (1 + number % 2)

        data = write_slices(tmp_path / "classes", edit=edit)
        listing = read_json(data / "dataset.json") | {"labels": {"0": "background", "1": "even", "2": "odd"}}
        (data / "dataset.json").write_text(json.dumps(listing))
        folder = train(dataset_dir=data, out_channels=3)
        assert weights(folder / "m" / "model.pt")["head.weight"].shape[0] == 3

    @pytest.mark.parametrize(
        "settings", [{"norm": "batch"}, {"norm": "none"}, {"residual": False}, {"healthy": "all"}], ids=str
    )
    def test_every_option_trains(self, train, settings):
        assert (train(**settings) / "m" / "signature_bank.npz").is_file()


class TestBadInput:
    def test_no_healthy_slices(self, fail, ill):
        error = fail(ill)
        assert "slices is healthy: every label holds foreground" in str(error)
        assert "set healthy to 'all'" in str(error)

    def test_fewer_patients_than_asked(self, fail, slices):
        assert "num_labeled_patients is 9, but 4 patient(s) are left to train on" in str(
            fail(slices, num_labeled_patients=9)
        )

    def test_channels_missing_in_a_file(self, fail, tmp_path):
        def edit(patient, number, image, label):
            return (image[..., 0] if (patient, number) == (2, 1) else image), label

        error = fail(write_slices(tmp_path / "gray", edit=edit))
        assert "case 'p2_s1'" in str(error)
        assert "has 1 channels; this bundle takes 3" in str(error)

    def test_channel_missing_in_a_patient_stays_zero(self, train, tmp_path, caplog):
        def edit(patient, number, image, label):
            image = image.copy()
            image[..., 2] *= patient != 1
            return image, label

        folder = train(dataset_dir=write_slices(tmp_path / "without", edit=edit))
        assert "channel(s) [2] hold nothing in the whole scan and stay zero" in caplog.text
        assert all(value.isfinite().all() for value in weights(folder / "m" / "model.pt").values())

    def test_slices_of_different_size_and_an_empty_one_train(self, train, tmp_path, caplog):
        caplog.set_level("INFO")

        def edit(patient, number, image, label):
            cut = (slice(0, 40 - 2 * patient), slice(number, 36))
            return (image * (patient != 3 or number > 0))[cut], label[cut]

        folder = train(dataset_dir=write_slices(tmp_path / "sizes", edit=edit))
        assert "1 slice(s) are zero everywhere and are left out" in caplog.text
        assert (folder / "m" / "signature_bank.npz").is_file()

    def test_nothing_to_do(self, fail, slices):
        assert "nothing would be trained" in str(fail(slices, pretrained=False, num_labeled_patients=0))
        assert "nothing would be trained" in str(fail(slices, "pretrain", pretrained=False))

    def test_healthy_file_that_does_not_exist(self, fail, slices):
        assert "healthy is 'nowhere.json', which is no JSON file" in str(fail(slices, healthy="nowhere.json"))

"""What ``double_mix`` promises of its labels: the labeled share, lists from outside, and labels that do not fit."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.double_mix.organs import listing, relabel, two_organs

PARTS = {"image": "imagesTr", "label": "labelsTr"}


class TestLabeledShare:
    def test_split_tells_the_labeled_and_the_unlabeled(self, train, folder):
        """Ten cases: two to validate; a quarter of the other eight is labeled."""
        split = json.loads((train(max_epochs=1) / "split.json").read_text())
        counts = {part: len(names.get(folder.name, ())) for part, names in split.items()}
        assert counts == {"train": 2, "unlabeled": 6, "val": 2, "test": 0}

    def test_labels_that_are_not_used_are_not_read(self, train, folder, run_config, tmp_path):
        split = json.loads((train(max_epochs=1) / "split.json").read_text())
        state = torch.load(tmp_path / "out" / "m" / "model.pt", weights_only=True)
        bare = tmp_path / "bare" / folder.name
        (bare / "labelsTr").mkdir(parents=True)
        (bare / "imagesTr").symlink_to(folder / "imagesTr")
        content = json.loads((folder / "dataset.json").read_text())
        for item in content["training"]:
            name = Path(item["image"]).name
            if name.removesuffix(".nii.gz") in split["unlabeled"][folder.name]:
                (bare / "labelsTr" / name).write_bytes(b"no label at all")
            else:
                (bare / "labelsTr" / name).symlink_to(folder / "labelsTr" / name)
        (bare / "dataset.json").write_text(json.dumps(content))
        other = train(output="other", dataset_dir=bare, max_epochs=1)
        for name, value in torch.load(other / "m" / "model.pt", weights_only=True).items():
            assert torch.equal(value, state[name]), name

    def test_named_cases_are_the_labeled_ones(self, train, folder):
        out = train(max_epochs=1, labeled_cases=["case_3", "case_8"])
        split = json.loads((out / "split.json").read_text())
        assert split["train"][folder.name] == ["case_3", "case_8"]

    def test_unlabeled_scans_of_another_folder(self, train, make_scan, tmp_path):
        (tmp_path / "more").mkdir()
        nib.save(nib.Nifti1Image(make_scan(77)[0], np.eye(4)), tmp_path / "more" / "extra.nii.gz")
        out = train(max_epochs=1, unlabeled_dir=tmp_path / "more", labeled_fraction=1)
        assert json.loads((out / "split.json").read_text())["unlabeled"] == {"more": ["extra"]}

    def test_bank_holds_labeled_and_unlabeled_cases(self, train):
        with np.load(train(max_epochs=1) / "m" / "signature_bank.npz", allow_pickle=False) as bank:
            assert len(bank["signatures"]) == 8


class TestListsFromOutside:
    """MONAI Label and federated clients set the lists of labeled cases, and tell nothing of unlabeled ones."""

    @pytest.fixture
    def lists(self, folder):
        cases = [{key: str(folder / part / f"case_{i}.nii.gz") for key, part in PARTS.items()} for i in range(4)]
        return {"train#dataset#data": cases[:3], "validate#dataset#data": cases[3:], "dataset_dir": None}

    def test_unlabeled_scans_come_from_their_own_folder(self, train, lists, folder):
        out = train(max_epochs=1, unlabeled_dir=folder / "imagesTr", **lists)
        split = json.loads((out / "split.json").read_text())
        assert {part: sum(map(len, names.values())) for part, names in split.items()} == {
            "train": 3, "unlabeled": 6, "val": 1,
        }, "labeled and validated scans lie in the same folder"  # fmt: skip
        assert not (out / "phantoms").exists()
        assert (out / "m" / "model.pt").is_file(), "given data, whatever dataset_dir says"

    def test_without_unlabeled_scans_the_labeled_ones_serve_as_such_too(self, train, lists):
        out = train(max_epochs=1, **lists)
        split = json.loads((out / "split.json").read_text())
        assert {part: sum(map(len, names.values())) for part, names in split.items()} == {
            "train": 3,
            "val": 1,
            "unlabeled": 0,
        }
        assert (out / "m" / "model.pt").is_file()


class TestBadInput:
    @pytest.mark.parametrize("value", [0, -0.5, 1.5])
    def test_labeled_fraction_beyond_its_range(self, fail, value):
        assert f"labeled_fraction is {value}; accepted is above 0, up to 1" in str(fail(labeled_fraction=value))

    def test_no_unlabeled_case_is_left(self, fail):
        error = fail(labeled_fraction=1)
        assert type(error).__name__ == "NotEnoughCasesError"
        assert "no unlabeled case is left beside 8 labeled one(s); lower labeled_fraction, give unlabeled_dir" in str(
            error
        )

    def test_supervised_training_needs_none(self, train):
        assert (train("supervised", labeled_fraction=1, max_epochs=1) / "m" / "model.pt").is_file()

    def test_batch_may_hold_several_patches_of_a_case(self, train):
        assert (train(labeled_fraction=0.1, batch_size=6, max_epochs=1) / "m" / "model.pt").is_file()

    def test_odd_batch(self, fail):
        assert "batch_size is 3; half of a batch is labeled: give an even number" in str(fail(batch_size=3))

    def test_labels_beyond_the_classes(self, fail, make_dataset, tmp_path):
        def third(index, image, label):
            return {"labelsTr": (label * 3, np.eye(4))}

        data = relabel(tmp_path / "data", make_dataset, [0, 1, 2, 3], third)
        error = fail(dataset_dir=data, labeled_fraction=0.5)
        assert "label holds 3 but out_channels is 3, that is, 0 to 2; set out_channels to 4 or, where" in str(error)
        assert "case 'case_" in str(error)

    def test_labels_with_gaps_are_named_in_order(self, train, make_dataset, tmp_path):
        def gaps(index, image, label):
            made = two_organs(index, image, label)
            return made | {"labelsTr": (np.array([0, 7, 40], np.uint8)[made["labelsTr"][0]], np.eye(4))}

        data = relabel(tmp_path / "gaps", make_dataset, [0, 7, 40], gaps)
        out = train(dataset_dir=data, foreground_labels={"gaps": [7, 40]}, max_epochs=1, labeled_fraction=0.5)
        epoch = listing(out)["epochs"][0]
        assert epoch["weight_b/1"] < epoch["weight_b/2"], "both classes are found, the second is rarer"

    def test_class_that_never_occurs_is_named_and_training_goes_on(self, train, make_dataset, tmp_path, caplog):
        data = relabel(tmp_path / "data", make_dataset, [0, 1, 2], edit=None)
        with caplog.at_level("WARNING"):
            out = train(dataset_dir=data, labeled_fraction=0.5, max_epochs=1)
        said = [record.getMessage() for record in caplog.records if "never occurs" in record.getMessage()]
        assert len(said) == 1
        assert said[0].startswith("class 2 (organ 2) never occurs in the labeled part (2 cases)")
        assert all(np.isfinite(value) for value in listing(out)["epochs"][0].values())

    def test_one_class_only(self, fail):
        assert "out_channels is 1; a softmax needs background and a class" in str(fail(out_channels=1))

    def test_missing_unlabeled_images(self, fail, tmp_path):
        error = fail(unlabeled_dir=tmp_path / "nowhere")
        assert "unlabeled_dir" in str(error)
        assert "nowhere does not exist" in str(error)

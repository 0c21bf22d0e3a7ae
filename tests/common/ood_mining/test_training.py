import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import NotEnoughCasesError
from common.ood_mining.mine import read_selection
from tests.common.ood_mining.tiny import STARTED, stages, table, weights


class TestMethod:
    def test_every_stage_writes_what_the_next_one_reads(self, make, caplog):
        training = make()
        training.run()
        assert stages(caplog) == STARTED
        files = {path.relative_to(training.folder).as_posix() for path in training.folder.rglob("*") if path.is_file()}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= own | {f"baseline/{name}" for name in own} | {"baseline/model.pt", "models/model.pt"}
        assert files >= {"ood_candidates.csv", "ood_selected.json", "proportion.json", "ood_candidates.png"}
        assert not [name for name in files if name.split("/")[-1].startswith(".")]

    def test_candidates_are_scored_by_the_best_weights_of_the_baseline(self, make):
        training = make()
        training.run()
        network, data = training.miner.network, training.dataset
        network.load_state_dict(weights(training.baseline_file))
        network.eval()
        rows = table(training)
        assert sorted(int(row["index"]) for row in rows) == list(range(data.num_original, len(data)))
        scores = [float(row["score"]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        for row in rows:
            index = int(row["index"])
            with torch.no_grad():
                found = network(data[index]["image"][None])[0].argmax(dim=0) > 0
            assert float(row["score"]) == pytest.approx(float(found.double().mean()), abs=1e-12)
            assert (row["kept"] == "True") == bool(found.any())
            inside = float((found & (data.label_at(index)[0] > 0)).sum() / found.sum()) if found.any() else 0
            assert float(row["in_removed"]) == pytest.approx(inside, abs=1e-6)
            patch = data.patch(index)
            assert (row["case"], row["start"], row["kind"]) == (patch.case, " ".join(map(str, patch.start)), "emptied")
            share = float((data.label_at(index) > 0).double().mean())
            assert float(row["foreground"]) == pytest.approx(share)

    def test_gallery_names_the_class_that_is_found(self, make, cases, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("common.ood_mining.mine.draw_gallery", lambda *_, names, **__: drawn.append(names))
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "large cell"}}))
        miner = make(cases=[case | {"label": case["image"]} for case in cases[:3]]).miner
        with torch.no_grad():
            miner.network[-1].bias[:] = torch.tensor([0.0, 9.0])
        torch.save(miner.network.state_dict(), tmp_path / "model.pt")
        miner.score(tmp_path / "model.pt", tmp_path)
        assert drawn == [{1: "large cell"}]

    def test_proportion_holds_counts_and_choice(self, make):
        training = make()
        training.run()
        report = json.loads((training.folder / "proportion.json").read_text())
        counts, kept = training.dataset.counts, [row for row in table(training) if row["kept"] == "True"]
        assert (report["num_positive"], report["num_negative"]) == (counts.positive, counts.negative)
        assert report["num_ood"] == len(kept) == report["kept"]["confusing"] > 0
        found = [float(row["score"]) for row in kept]
        holes = sum(score * float(row["in_removed"]) for score, row in zip(found, kept, strict=True)) / sum(found)
        assert report["kept"]["confusion_in_removed_foreground"] == pytest.approx(holes)
        for line in report["percentages"]:
            assert line["patches"] == round(line["fraction"] * len(kept))
            assert line["pnr"] == pytest.approx(counts.positive / (counts.negative + line["patches"]))
        best = min(report["percentages"], key=lambda line: abs(line["pnr"] - 0.65))
        assert report["pnr_selected"] == pytest.approx(best["pnr"], abs=0.05)
        selected = json.loads((training.folder / "ood_selected.json").read_text())["patches"]
        assert len(selected) == report["num_selected"]
        chosen = {int(row["index"]) for row in kept}
        assert {patch["index"] for patch in selected} <= chosen

    def test_combined_training_sees_known_and_selected_patches(self, make):
        training, seen = make(ood_fraction=1.0), []
        choose = training.course.trainer.data_loader.sampler.choose
        training.course.trainer.data_loader.sampler.choose = lambda indices: (
            seen.append(list(indices)),
            choose(indices),
        )
        training.run()
        selected = read_selection(training.folder / "ood_selected.json")
        known = list(range(training.dataset.num_original))
        assert seen == [known, known + selected]
        assert selected

    @pytest.mark.parametrize("total", [6, None])
    def test_equal_epochs_make_the_combined_training_longer(self, make, total):
        """In proportion to its patches; else both have as many steps, whether or not the samples are counted."""
        lengths = []
        for equal_epochs in (False, True):
            training = make(f"out_{equal_epochs}", ood_fraction=1.0, equal_epochs=equal_epochs)
            sampler = training.course.trainer.data_loader.sampler
            sampler.total = total
            training.run()
            assert sampler.total == total
            known, mined = training.dataset.num_original, len(read_selection(training.folder / "ood_selected.json"))
            histories = [training.folder / "baseline" / "metrics.json", training.folder / "metrics.json"]
            lengths.append([json.loads(file.read_text())["epochs"][-1]["iteration"] for file in histories])
        assert mined
        usual = total or known
        steps = [2 * -(-number // 2) for number in (usual, round(usual * (known + mined) / known))]
        assert lengths == [[steps[0]] * 2, steps]

    def test_ratio_of_pixels_counts_pixels(self, make):
        training = make(ratio_unit="pixels", ood_fraction=0.5)
        training.run()
        report = json.loads((training.folder / "proportion.json").read_text())
        labels = [training.dataset.label_at(number) for number in range(training.dataset.num_original)]
        positive = sum(int((label != 0).sum()) for label in labels)
        total = sum(label.numel() for label in labels)
        assert (report["num_positive"], report["num_negative"]) == (positive, total - positive)
        added = report["num_selected"] * total / training.dataset.num_original
        assert report["num_selected"] > 0
        assert report["pnr_selected"] == pytest.approx(positive / (total - positive + added)), "whole patches are added"

    def test_kinds_that_are_not_asked_for_are_not_drawn(self, make):
        training = make(candidate_kinds=["candidate"], ood_fraction=1.0)
        training.run()
        assert read_selection(training.folder / "ood_selected.json") == []

    def test_only_ood_sees_the_selected_alone_and_keeps_its_weights(self, make):
        training = make(ood_fraction=1.0, only_ood=True)
        training.run()
        assert list(training.course.trainer.data_loader.sampler.chosen) == read_selection(
            training.folder / "ood_selected.json"
        )
        assert weights(training.weights_file)

    def test_both_trainings_start_from_the_same_weights(self, make):
        """Started anew, the training of the baseline repeats itself, bit for bit."""
        training = make()
        start = training.course.states()
        training.run()
        again = training.folder / "again"
        training.course.restart(start, again, again / "model.pt")
        training.course.run({}, range(training.dataset.num_original), resume=False)
        assert_close(weights(again / "model.pt"), weights(training.baseline_file), rtol=0, atol=0)
        first, second = (
            json.loads((folder / "metrics.json").read_text()) for folder in (training.folder / "baseline", again)
        )
        assert first == second
        assert [epoch["learning_rate"] for epoch in first["epochs"]] == [0.05, 0.05 * 0.5]

    def test_without_any_selected_patch_the_baseline_is_the_result(self, make, caplog):
        training = make(ood_fraction=0.0)
        training.run()
        assert "no patch is selected: the baseline is the result" in caplog.text
        assert training.weights_file.read_bytes() == training.baseline_file.read_bytes()
        assert (training.folder / "metrics.json").read_text() == (
            training.folder / "baseline" / "metrics.json"
        ).read_text()

    @pytest.mark.parametrize(("settings", "said"), [
        ({"target_ratio": 1e-3}, True), ({"target_ratio": 10.0}, False), ({"ood_fraction": 1.0}, False),
    ])  # fmt: skip
    def test_ratio_out_of_reach_is_said(self, make, caplog, settings, said):
        make(**settings).run()
        assert ("these are all that there are: the ratio stays above target_ratio 0.001" in caplog.text) == said
        below = "without any candidate, not above target_ratio 10, so none is drawn" in caplog.text
        assert below == ("target_ratio" in settings and not said)

    def test_baseline_that_confuses_nothing_goes_on_with_the_known_patches(self, make, caplog):
        training = make(rate=0.0, network=bright_finder())
        training.run()
        assert "the baseline confuses nothing" in caplog.text
        assert json.loads((training.folder / "ood_selected.json").read_text())["patches"] == []
        assert json.loads((training.folder / "proportion.json").read_text())["fraction"] == 0
        assert_close(weights(training.weights_file), weights(training.baseline_file), rtol=0, atol=0)

    def test_baseline_that_finds_foreground_everywhere_has_learned_nothing(self, make, caplog):
        network = bright_finder()
        nn.init.constant_(network.bias[1:], 100.0)
        make(rate=0.0, network=network).run()
        assert "it has learned nothing, and so its candidates tell nothing" in caplog.text

    def test_only_ood_without_any_is_an_error(self, make):
        with pytest.raises(NotEnoughCasesError, match="only_ood is set, but no out-of-distribution patch is selected"):
            make(rate=0.0, network=bright_finder(), only_ood=True).run()

    def test_exact_fraction_is_taken_where_asked(self, make):
        training = make(exact_fraction=True, target_ratio=0.5)
        training.run()
        report = json.loads((training.folder / "proportion.json").read_text())
        assert report["fraction"] == report["exact_fraction"]
        assert report["target"] == 0.5


def bright_finder():
    """Calls foreground what is far brighter than anything but foreground."""
    network = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 10.0]).reshape(2, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, -10.5]))
    return network

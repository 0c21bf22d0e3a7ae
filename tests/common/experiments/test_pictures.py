"""Pictures of what arms make of the same test cases."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import ConfigError, MissingDataError
from common.experiments.pictures import ArmPictures, most_classes
from common.experiments.plan import Plan
from common.experiments.uncertainty import UncertaintyPictures


class Threshold(nn.Module):
    """Class 1 above a threshold."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), image - self.threshold], dim=1)


class Inferer:
    def without_signature(self):
        return self

    def __call__(self, image, network):
        return network(image)


def make_grid(tmp_path, thresholds, network=None, **arms):
    image = torch.arange(24.0).reshape(1, 4, 3, 2)
    cases = [{"case": f"case_{n}", "image": image + n, "label": (image > 4).float()} for n in range(3)]
    contents = {"inferer": Inferer(), "device": "cpu", "validate#dataset": cases, "network": network or Threshold()}
    label = str(tmp_path / "labelsTr" / "case_0.nii.gz")
    contents["validate#dataset#data"] = [{"case": case["case"], "label": label, "task": "d"} for case in cases]
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "7": "spleen"}}')
    parser = SimpleNamespace(get_parsed_content=contents.__getitem__, get={"foreground_labels": {"d": [7]}}.get)
    seen = []

    def parse(name, run, options):
        seen.append((name, run.arm, options["split_file"]))
        return parser

    def folder_of(run):
        folder = tmp_path / run.arm
        if run.arm in thresholds:
            (folder / "models").mkdir(parents=True, exist_ok=True)
            torch.save({"threshold": torch.tensor([thresholds[run.arm]])}, folder / "models" / "model.pt")
        return folder

    plan = Plan({"d": {}}, arms or {"supervised": [], "full": [{"seeds": [1]}]}, seeds=[0, 1])
    bundle = SimpleNamespace(root=str(tmp_path), parse=parse)
    return SimpleNamespace(plan=plan, bundle=bundle, folder=tmp_path, folder_of=folder_of, places={}), seen


def test_segmentations_of_each_arm_are_drawn_beside_the_truth(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.experiments.pictures.draw_side_by_side", lambda *args: drawn.append(args))
    grid, seen = make_grid(tmp_path, {"supervised": 3.0, "full": 5.0})
    ArmPictures(grid, ["supervised", "full"], shown_cases=2).run()
    assert seen == [("evaluate", arm, f"{tmp_path}/{arm}/split.json") for arm in ("supervised", "full")]
    rows, titles, classes, path = drawn[0]
    assert titles == ["truth", "supervised", "full"]
    assert (classes, path) == (["1 (spleen)"], tmp_path / "report" / "segmentations.png")
    assert [name for name, *_ in rows] == ["case_0", "case_1"]
    for number, (_, picture, maps) in enumerate(rows):
        # The second of the two slices holds one voxel more above 4.
        image = torch.arange(24.0).reshape(4, 3, 2)[..., 1]
        assert torch.equal(torch.from_numpy(picture), image + number)
        expected = [image > 4, image + number > 3, image + number > 5]
        assert [item.tolist() for item in maps] == [item.float().tolist() for item in expected]


def test_picture_is_written(tmp_path, read_picture):
    grid, _ = make_grid(tmp_path, {"supervised": 3.0})
    read_picture(ArmPictures(grid, ["supervised"]).run())


def test_runs_are_of_one_seed(tmp_path):
    grid, _ = make_grid(tmp_path, {})
    runs = ArmPictures(grid, ["full", "supervised"]).matching_runs()
    assert [(run.arm, run.seed) for run in runs] == [("full", 1), ("supervised", 1)]


def test_what_cannot_be_drawn_is_named(tmp_path):
    grid, _ = make_grid(tmp_path, {})
    with pytest.raises(ConfigError, match=r"shown_arms names \['cps'\]; accepted are supervised, full"):
        ArmPictures(grid, ["cps"])
    with pytest.raises(ConfigError, match="shown_cases is 0"):
        ArmPictures(grid, ["full"], shown_cases=0)
    with pytest.raises(MissingDataError, match=r"model\.pt does not exist; run the experiment first"):
        ArmPictures(grid, ["supervised"]).run()
    apart, _ = make_grid(tmp_path, {}, first=[{"seeds": [0]}], second=[{"seeds": [1]}])
    with pytest.raises(ConfigError, match="which no data set, seed and fold have in common"):
        ArmPictures(apart, ["first", "second"]).matching_runs()


class Slope(nn.Module):
    """Logits of one channel, which rise with the image, the faster the larger the weight."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return self.threshold * (image - 4.5)


def test_uncertainty_is_that_of_the_case_which_the_first_arm_segments_worst(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.experiments.uncertainty.draw_uncertainty", lambda *args: drawn.append(args))
    grid, _ = make_grid(tmp_path, {"alone": 2.0, "shared": -1.0}, network=Slope(), alone=[], shared=[])
    with pytest.raises(MissingDataError, match=r"evaluation/metrics\.json cannot be read .*run the experiment first"):
        UncertaintyPictures(grid, ["alone", "shared"]).run()
    (tmp_path / "alone" / "evaluation").mkdir()
    content = {"segmentation": {"dsc": {"per_case": {"case_0": 0.7, "case_1": 0.2, "case_2": None}}}}
    (tmp_path / "alone" / "evaluation" / "metrics.json").write_text(json.dumps(content))
    path = UncertaintyPictures(grid, ["alone", "shared"]).run()
    ((name, picture, truth, panels),), written = drawn[0]
    assert (name, path, written) == ("d: case_1", tmp_path / "report" / "uncertainty.png", path)
    image = torch.arange(24.0).reshape(4, 3, 2)[..., 1]
    assert torch.equal(torch.from_numpy(picture), image + 1)
    assert torch.equal(torch.from_numpy(truth), (image > 4).float())
    (first, unsure, right), (second, _, wrong) = panels
    p = torch.sigmoid(2 * (image + 1 - 4.5)).double()
    bits = -(p * p.log2() + (1 - p) * (1 - p).log2()).nan_to_num()
    assert torch.from_numpy(unsure).double() == pytest.approx(bits, abs=1e-4)
    # A voxel of 4, in the other slice, is all that the first finds too much; the second finds the opposite.
    assert (first, second) == ("alone, Dice 0.97", "shared, Dice 0.00")
    assert (right.max(), wrong.min()) == (0, 1)


def test_arm_without_uncertainty_is_named(tmp_path):
    grid, _ = make_grid(tmp_path, {})
    with pytest.raises(ConfigError, match=r"shown_arms names \['x'\]; accepted are supervised, full"):
        UncertaintyPictures(grid, ["x"])
    apart, _ = make_grid(tmp_path, {}, first=[], second=[{"datasets": []}])
    with pytest.raises(ConfigError, match="arm 'second' has no run on 'd'; leave it out of shown_arms"):
        UncertaintyPictures(apart, ["first", "second"]).run()


@pytest.mark.parametrize(
    ("slices", "expected"),
    [([[0, 0, 0], [0, 0, 0]], 0), ([[1, 1, 1], [1, 2, 0], [1, 2, 1]], 2), ([[1, 0], [2, 0], [0, 0]], 0)],
)
def test_slice_shows_most_classes(slices, expected):
    assert most_classes(torch.tensor(slices).T[None]) == expected

"""Which runs a grid has, and what each of them sets."""

import pytest

from common.errors import ConfigError
from common.experiments.plan import Plan

ONE = {"a": {"dataset_dir": "data/a"}}


def test_every_arm_runs_with_every_share_seed_and_fold():
    plan = Plan(
        {"a": {"dataset_dir": "data/a"}, "b": {"dataset_dir": "data/b", "out_channels": 4}},
        {"cps": ["cps.json"], "mix": [{"mixing": "none"}, {"loss.momentum": 0.5}]},
        settings={"max_epochs": 3, "out_channels": 2}, overlays=["full.json"], labeled={"share": [0.1, 0.2]},
        seeds=[0, 7], num_folds=2,
    )  # fmt: skip
    runs = plan.runs()
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 2 * 2 * 2
    first, last = runs[0], runs[-1]
    assert first.columns == {
        "dataset": "a", "arm": "cps", "labeled": "0.1", "seed": "0", "fold": "0", "swept": "", "dose": "",
    }  # fmt: skip
    assert first.overlays == ("full.json", "cps.json")
    assert first.settings == {
        "max_epochs": 3, "out_channels": 2, "dataset_dir": "data/a", "share": 0.1, "seed": 0, "num_folds": 2, "fold": 0,
    }  # fmt: skip
    assert last.settings == {
        "max_epochs": 3, "out_channels": 4, "dataset_dir": "data/b", "share": 0.2, "seed": 7, "num_folds": 2, "fold": 1,
        "mixing": "none", "loss#momentum": 0.5,
    }  # fmt: skip
    assert last.name == "b_mix_labeled_0.2_seed_7_fold_1"


def test_axes_that_are_not_varied_leave_their_column_empty():
    (run,) = Plan(ONE, {"only OoD": []}).runs()
    assert run.columns == dict.fromkeys(["labeled", "fold", "swept", "dose"], "") | {
        "dataset": "a", "arm": "only OoD", "seed": "0",
    }  # fmt: skip
    assert run.settings == {"dataset_dir": "data/a", "seed": 0}
    assert run.name == "a_only_OoD_seed_0"


def test_one_fold_for_each_seed():
    runs = Plan(ONE, {"x": []}, seeds=[5, 6, 7], num_folds=2, one_fold_per_seed=True).runs()
    assert [(run.seed, run.fold) for run in runs] == [(5, 0), (6, 1), (7, 0)]


def test_sweep_runs_every_arm_with_every_dose():
    runs = Plan(ONE, {"x": [], "y": []}, sweep={"ood_fraction": [0.0, 0.5]}).runs()
    assert [(run.arm, run.columns["dose"], run.settings["ood_fraction"]) for run in runs] == [
        ("x", "0", 0.0), ("y", "0", 0.0), ("x", "0.5", 0.5), ("y", "0.5", 0.5),
    ]  # fmt: skip
    assert {run.swept for run in runs} == {"ood_fraction"}


def test_arms_may_take_part_in_some_of_the_grid():
    arms = {"pretrained": [], "scratch": [{"pretrained": False, "labeled": [1], "seeds": [0]}]}
    runs = Plan(ONE, arms, labeled={"patients": [0, 1]}, seeds=[0, 1]).runs()
    assert [(run.labeled, run.arm, run.seed) for run in runs] == [
        (0, "pretrained", 0), (0, "pretrained", 1), (1, "pretrained", 0), (1, "pretrained", 1), (1, "scratch", 0),
    ]  # fmt: skip
    assert "labeled" not in runs[-1].settings


TWO = {
    "a": {"dataset_dir": "data/a", "foreground_labels": {"a": [1]}},
    "b": {"dataset_dir": "data/b", "foreground_labels": {"b": [3]}},
}


def test_arm_trains_on_several_data_sets_together():
    plan = Plan(
        TWO | {"c": {"dataset_dir": "c"}}, {"alone": [], "shared": [{"together": True, "datasets": ["a", "b"]}]}
    )
    runs = plan.runs()
    assert [(run.arm, run.dataset) for run in runs] == [
        ("alone", "a"), ("alone", "b"), ("alone", "c"), ("shared", "together"),
    ]  # fmt: skip
    assert runs[-1].settings == {
        "dataset_dir": ["data/a", "data/b"], "foreground_labels": {"a": [1], "b": [3]}, "seed": 0,
    }  # fmt: skip
    assert (runs[-1].together, runs[0].together) == (True, False)
    assert "dataset" not in runs[-1].columns, "its rows tell it case by case"
    assert runs[-1].name == "together_shared_seed_0"


def test_chain_trains_on_one_data_set_after_the_other():
    arms = {"chain": [{"chain": ["b", "a"], "rate": 0.2, "fine_tuned": {"rate": 0.1}}]}
    runs = {run.dataset: run for run in Plan(TWO | {"c": {"dataset_dir": "c"}}, arms, seeds=[7], num_folds=1).runs()}
    assert set(runs) == {"a", "b"}
    assert (runs["b"].after, runs["a"].after) == (None, runs["b"])
    assert (runs["b"].settings["rate"], runs["a"].settings["rate"]) == (0.2, 0.1)
    assert runs["a"].settings["dataset_dir"] == "data/a"
    assert (runs["b"].settings["seed"], runs["b"].settings["fold"]) == (7, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "arms is empty; give at least one"),
        ({"seeds": []}, "seeds is empty"),
        ({"labeled": {"a": [1], "b": [2]}}, r"labeled is \{'a': \[1\], 'b': \[2\]\}; accepted is one option"),
        ({"sweep": {"a": []}}, "sweep is .*; accepted is one option of train.json with its values"),
        ({"arms": {"x": [{"fold": 1}]}}, "arm 'x' sets 'fold', which the experiment sets itself; leave it out"),
        ({"settings": {"seed": 1}}, "settings sets 'seed', which the experiment sets itself"),
        (
            {"arms": {"x": [{"chain": ["a", "z"]}]}},
            r"arm 'x' has chain \['a', 'z'\]; accepted are data sets in order, each once: a$",
        ),
        ({"arms": {"x": [{"chain": ["a", "a"]}]}}, "arm 'x' has chain"),
        ({"arms": {"x": [{"chain": "a"}]}}, "arm 'x' has chain 'a'; accepted is a list"),
        ({"arms": {"x": [{"chain": ["a"], "together": True}]}}, "arm 'x' has a chain beside together or datasets"),
        ({"arms": {"x": [{"chain": ["a"], "fine_tuned": {"seed": 1}}]}}, "arm 'x' sets 'seed'"),
        (
            {"arms": {"x": [{"together": True, "datasets": ["a", "z"]}]}},
            "arm 'x' trains together on 'z'; accepted are a$",
        ),
        ({"datasets": {"together": {}}}, "datasets has 'together', which stands for several of them"),
        ({"labeled": {"share": [1]}, "settings": {"share": 1}}, "settings sets 'share', which the experiment"),
    ],
    ids=str,
)
def test_plans_that_say_nothing_or_two_things_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        Plan(**({"datasets": ONE, "arms": {"x": []}} | changes))


def test_null_is_a_dose_as_well():
    runs = Plan(ONE, {"x": []}, sweep={"ood_fraction": [0.5, None]}).runs()
    assert [(run.columns["swept"], run.columns["dose"]) for run in runs] == [
        ("ood_fraction", "0.5"), ("ood_fraction", "none")
    ]  # fmt: skip
    assert [run.settings["ood_fraction"] for run in runs] == [0.5, None]
    assert runs[1].name.endswith("x_ood_fraction_none_seed_0")
    (run,) = Plan(ONE, {"x": []}).runs()
    assert (run.columns["swept"], run.columns["dose"]) == ("", "")
    assert run.name.endswith("x_seed_0")


def test_sweep_takes_the_place_of_what_all_runs_share():
    runs = Plan(ONE, {"x": []}, settings={"rate": 1.0, "width": 2}, sweep={"rate": [0.1, 0.2]}).runs()
    assert [(run.settings["rate"], run.settings["width"]) for run in runs] == [(0.1, 2), (0.2, 2)]
    with pytest.raises(ConfigError, match="arm 'x' sets 'rate', which the experiment sets itself"):
        Plan(ONE, {"x": [{"rate": 1.0}]}, sweep={"rate": [0.1]})


def test_part_of_the_grid_is_a_list():
    with pytest.raises(ConfigError, match=r"arm 'x' has seeds 0; accepted is a list of those it is run with"):
        Plan(ONE, {"x": [{"seeds": 0}]})


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (
            {"a": {"dataset_dir": "data/x"}},
            "data set 'a' has dataset_dir 'data/x'; where several .* folder of the data",
        ),
        ({"a": {"dataset_dir": ["data/a"]}}, "data set 'a' has dataset_dir"),
        ({"a": {}}, "data set 'a' has dataset_dir None"),
        (
            {"a": {"dataset_dir": "a", "out_channels": 1}, "b": {"dataset_dir": "b", "out_channels": 2}},
            "data sets have out_channels 1 and 2; where they are trained on together, give one",
        ),
    ],
    ids=str,
)
def test_data_sets_that_cannot_be_trained_on_together_are_named(datasets, words):
    with pytest.raises(ConfigError, match=words):
        Plan(datasets, {"x": [{"together": True}]}).runs()

"""Plans of trainings: what is measured of data, what is chosen from it, and that training goes by it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from common.data.cases import decathlon_cases
from common.errors import ConfigError, MissingDataError
from common.planning import plan_training
from common.planning.choices import (
    Choice,
    apply_given,
    choose_batch,
    choose_classes,
    choose_grid,
    choose_intensities,
    choose_labels,
    choose_picture_window,
    is_sliced,
    room_of,
)
from common.planning.command import choice_lines
from common.planning.fingerprint import Fingerprint, measure_cases
from common.planning.length import (
    INFERENCE,
    INFERENCES,
    Budget,
    case_seconds,
    choose_length,
    choose_quality,
    choose_validation,
    share_out,
)
from common.planning.timing import seconds_per_step, total

DATA = Fingerprint(
    num_cases=10, num_patients=5, sizes=[[34, 52, 35], [38, 50, 36]], spacings=[[1.0, 1.0, 1.0]] * 2, channels=1,
    classes={1: "anterior", 2: "posterior"}, found=[1, 2], modality="MR", foreground=(10.0, 90.0), whole=(0.0, 100.0),
)  # fmt: skip
SLICED = replace(DATA, sizes=[[256, 200, 30]] * 2, spacings=[[1.25, 1.25, 7.7]] * 2)
CPU = room_of(16.0, cuda=False)
NO_DICE = "no expected Dice: 4 cases of 9 inferences of"


def values(choices):
    return {choice.setting: choice.value for choice in choices}


def test_measures_are_those_of_the_scans_along_right_front_and_up(make_dataset, tmp_path):
    affine = np.array([[0, -2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])

    def edit(_index, image, label):
        return {"imagesTr": (image * 0 + 7, affine), "labelsTr": ((label > 0).astype(np.uint8) * 3, affine)}

    cases = decathlon_cases(make_dataset(tmp_path / "organ", 3, edit=edit))
    data = measure_cases(cases, sample=2)
    assert (data.num_cases, len(data.sizes), data.channels, data.found) == (3, 2, 1, [3])
    # The second axis of the file points left, the first one to the front.
    assert data.size == [18, 20, 16]
    assert data.spacing == pytest.approx([2, 3, 5])
    assert data.spread == pytest.approx(1.0)
    assert data.foreground == data.whole == (7.0, 7.0)


def test_classes_are_counted_with_background_for_a_softmax_alone():
    assert values(choose_classes(DATA, sigmoid=True)) == {"in_channels": 1, "out_channels": 2}
    softmax = choose_classes(DATA, sigmoid=False)
    assert values(softmax)["out_channels"] == 3
    assert softmax[1].why == "2 class(es) in dataset.json: 1 anterior, 2 posterior; and background"
    gaps = choose_classes(replace(DATA, classes={1: "a", 2: "b", 7: "c"}), sigmoid=False, task="organ")
    # What dataset.json does not name is refused by the training; without names, labels tell.
    assert values(choose_classes(replace(DATA, found=[1, 2, 9]), sigmoid=True)) == values(
        choose_classes(DATA, sigmoid=True)
    )
    assert values(choose_classes(replace(DATA, classes={}, found=[4]), sigmoid=True, task="t"))[
        "foreground_labels"
    ] == {"t": [4]}
    assert values(gaps) == {"in_channels": 1, "out_channels": 4, "foreground_labels": {"organ": [1, 2, 7]}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DATA, {"modality": "MR"}),
        (replace(DATA, modality=""), {"modality": "MR"}),
        (replace(DATA, modality="RGB"), {"modality": "RGB"}),
        (replace(DATA, modality="", sizes=[[64, 48]], channels=3), {"modality": "RGB"}),
        (
            replace(DATA, modality="CT", whole=(-1024.0, 900.0), foreground=(-57.0, 212.0)),
            {"modality": "CT", "hounsfield_window": [-60, 220]},
        ),
        (replace(DATA, modality="CT", whole=(0.0, 254.6)), {"modality": "CT", "hounsfield_window": [0, 255]}),
    ],
)
def test_intensities_follow_the_modality(data, expected):
    assert values(choose_intensities(data)) == expected


def test_slices_far_apart_keep_their_grid_and_are_seen_whole():
    assert is_sliced(SLICED)
    assert not is_sliced(DATA)
    chosen = values(choose_grid(SLICED, [16, 16, 1], CPU))
    # 320 mm of 128 pixels.
    assert chosen == {"spacing": [2.502, 2.502, -1.0], "roi_size": [128, 112, 1]}
    near = replace(SLICED, sizes=[[96, 90, 12]])
    assert values(choose_grid(near, [16, 16, 1], CPU)) == {"spacing": None, "roi_size": [96, 96, 1]}


def test_windows_of_volumes_hold_the_median_scan_or_what_the_machine_takes():
    # As the gate of the hippocampus, which converges.
    assert values(choose_grid(DATA, [8, 8, 8], CPU)) == {"spacing": None, "roi_size": [40, 56, 40]}
    large = replace(DATA, sizes=[[180, 140, 88]], spacings=[[0.6] * 3, [0.8] * 3, [0.6] * 3])
    chosen = values(choose_grid(large, [8, 8, 8], CPU))
    assert chosen["spacing"] == [0.6, 0.6, 0.6]
    assert all(side % 8 == 0 for side in chosen["roi_size"])
    assert 150_000 < np.prod(chosen["roi_size"]) <= CPU.voxels
    gpu = room_of(24.0, cuda=True)
    assert np.prod(values(choose_grid(large, [8, 8, 8], gpu))["roi_size"]) > 1_500_000


@pytest.mark.parametrize(("resized", "window"), [(True, [128, 64]), (False, [128, 128])])
def test_windows_of_pictures(resized, window):
    pictures = replace(DATA, sizes=[[512, 256]], spacings=[[1.0, 1.0]])
    assert choose_picture_window(pictures, [16, 16], CPU, resized=resized)[0].value == window


@pytest.mark.parametrize(
    ("window", "pictures", "size"), [([40, 56, 40], False, 2), ([128, 128, 1], False, 16), ([128, 128], True, 8)]
)
def test_batches_are_those_of_the_gates(window, pictures, size):
    assert choose_batch(window, pictures=pictures, room=CPU).value == size
    assert choose_batch([200, 200, 200], pictures=False, room=CPU).value == 1


@pytest.mark.parametrize(
    ("minutes", "seconds", "steps", "epochs"),
    [(20, 1.0, 780, 15), (1, 10.0, 2, 2), (0.1, 10.0, 2, 2), (9999, 0.1, 20_000, 20)],
)
def test_length_is_what_fits_the_time(minutes, seconds, steps, epochs):
    chosen = values(choose_length(Budget(minutes), seconds))
    assert (chosen["iterations"], chosen["max_epochs"]) == (steps, epochs)
    assert chosen["optimizer_name"] == "adamw"


def test_what_is_given_rules_and_the_table_says_so():
    chosen = apply_given(choose_classes(DATA, sigmoid=True), {"out_channels": 1, "seed": 3})
    assert values(chosen) == {"in_channels": 1, "out_channels": 1, "seed": 3}
    assert [choice.why for choice in chosen[1:]] == ["given; planned was 2", "given"]


def test_table_cuts_long_values_and_keeps_reasons():
    lines = choice_lines([Choice("a", list(range(50)), "why " * 50), Choice("b", 1, "x")])
    assert lines[1] == f"a        {str(list(range(50)))[:37]}...  {'why ' * 50}".rstrip()
    assert lines[2] == f"b        1{' ' * 41}x"


@pytest.mark.parametrize(
    ("steps", "spacing", "expected"),
    [
        # 4 of 20 cases, of 4 x 4 x 1 windows each, beside 0.77 of the windows of an epoch.
        (42, None, {}),
        (41, None, {"val_cases": 3}),
        # One case would do, but chooses nothing.
        (9, None, {"val_cases": 2}),
        (4, [12.8, 12.8, -1.0], {}),
    ],
)
def test_validations_take_no_more_than_their_share(steps, spacing, expected):
    data = replace(DATA, num_cases=20, sizes=[[100, 100, 32]], spacings=[[1.0, 1.0, 1.0]])
    settled = {"roi_size": [32, 32, 32], "iterations": 10 * steps, "max_epochs": 10, "batch_size": 2}
    settled |= {"val_fraction": 0.2, "spacing": spacing}
    assert values(choose_validation(data, settled, resized=False)) == expected
    assert choose_validation(data, settled, resized=True) == []
    # The fewest are all that there are: no row says that they take too long.
    assert choose_validation(replace(data, num_cases=8), settled | {"iterations": 10}, resized=False) == []


@pytest.mark.parametrize(
    ("minutes", "seconds", "expected"),
    # Nine times a case, in 15 % of the time; of three cases nothing would come.
    [
        (10, 1.6, (6, "cases for the expected Dice: 9 inferences of 1.6 s each, in 15 % of 10 minutes")),
        (6, 1.6, (0, f"{NO_DICE} 1.6 s take more than 15 % of 6 minutes; 6.4 minutes would do")),
        (1, 16.0, (0, f"{NO_DICE} 16 s take more than 15 % of 1 minute; 64 minutes would do")),
        (10, 0.16, None),
        (100, 1.6, None),
    ],
)
def test_quality_is_measured_on_as_many_cases_as_the_time_allows(minutes, seconds, expected):
    data, settled = replace(DATA, num_cases=200, num_patients=200), {"val_fraction": 0.2, "quality_cases": 20}
    chosen = [(choice.value, choice.why) for choice in choose_quality(minutes, seconds, data, settled)]
    assert chosen == ([] if expected is None else [expected])


def test_plan_says_where_too_few_patients_are_kept_for_an_expected_dice():
    settled = {"val_fraction": 0.2, "quality_cases": 20}
    (choice,) = choose_quality(10, 0.1, replace(DATA, num_cases=200, num_patients=17), settled)
    assert (choice.value, choice.why) == (20, "no expected Dice: 3 patient(s) are kept from training, it takes 4")
    assert choose_quality(10, 0.1, replace(DATA, num_cases=200, num_patients=18), settled) == []
    # Whoever has switched it off needs no reason.
    assert choose_quality(10, 0.1, DATA, settled | {"quality_cases": 0}) == []
    assert share_out(10, 6.0, DATA, settled).quality == 0


def test_time_is_shared_out_between_training_and_what_follows():
    settled = {"val_fraction": 0.2, "quality_cases": 2}
    # Twenty cases for the bank, two with eight damages.
    data = replace(DATA, num_cases=20, num_patients=20)
    budget = share_out(10, 3.0, data, settled)
    assert (budget.bank, budget.quality, budget.each) == pytest.approx((1.0, INFERENCES / 10, 8.1))
    (steps, *_) = choose_length(budget, 1.0)
    assert steps.value == pytest.approx(8.1 * 60 * 0.65, rel=0.03)
    assert steps.why == "65 % of 8.1 minutes, 1 s a step as measured here; the rest is for validation and reading"
    assert budget.choice().why == "8.1 to train, 1 for the signature bank, 0.9 for the expected Dice"
    # Labels of half of the 16 training cases.
    assert share_out(10, 3.0, data, settled | {"labeled_fraction": 0.5}).bank == pytest.approx(0.6)
    twice = share_out(10, 3.0, data, settled, trainings=2)
    assert twice.each == pytest.approx(8.1 / 2)
    assert twice.choice().why.startswith("8.1 for 2 trainings, 1 for")
    assert share_out(10, 0.01, data, settled).choice().why.endswith("under 0.1 for the expected Dice")
    # What takes longer than all the time leaves some to train, and says so.
    long = share_out(1, 60.0, DATA, settled | {"quality_cases": 0})
    assert long.each == 0.25
    assert long.choice().why == "0.25 to train, 10 for the signature bank; more than given"
    assert case_seconds(16, 3.0, 2) == pytest.approx(24 * INFERENCE)


def test_cases_of_many_windows_are_validated_less_often():
    def length(**settings):
        return values(choose_length(Budget(10), 1.0, batch_size=2, **settings))["max_epochs"]

    assert (length(), length(case_windows=1), length(case_windows=50), length(case_windows=9999)) == (7, 7, 6, 1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"labeled_fraction": 0.05, "labeled_cases": None}, {"labeled_fraction": 0.05}),
        ({"labeled_fraction": 1}, {}),
        ({"labeled_fraction": 0.2, "labeled_cases": ["a"]}, {}),
        ({}, {}),
    ],
)
def test_few_labels_are_told(config, expected):
    chosen = choose_labels(config)
    assert values(chosen) == expected
    if len(config) == 2 and chosen:
        assert (
            chosen[0].why == "this method is for few labels: 95 % of the training cases go without theirs; 1 uses all"
        )


def test_most_cases_of_a_validation_are_left_out_where_there_are_many():
    data = replace(DATA, num_cases=200, sizes=[[100, 100, 32]], spacings=[[1.0, 1.0, 1.0]])
    settled = {"roi_size": [32, 32, 32], "iterations": 400, "max_epochs": 4, "batch_size": 2, "val_fraction": 0.2}
    (choice,) = choose_validation(data, settled, resized=False)
    assert choice.value == int(0.25 / 0.65 * 200 / INFERENCE) // 16 == 9
    assert choice.why == "40 cases of 16 window(s) would take longer than 25 % of the training"


def test_length_that_is_given_is_shared_out_and_the_time_to_several_trainings():
    assert values(choose_length(Budget(1), 0.0, steps=300))["max_epochs"] == 6
    twice = values(choose_length(Budget(10, trainings=2), 2.0 / 4, pretrained=True))
    assert twice["iterations"] == twice["pretrain_iterations"] == 385
    assert twice["max_epochs"] == twice["pretrain_epochs"] == 7


def test_data_sets_of_other_classes_leave_the_segmentation_as_it_is(make_dataset, tmp_path):
    folders = [make_dataset(tmp_path / name, 1) for name in ("a", "b", "c")]
    listing = folders[2] / "dataset.json"
    listing.write_text(listing.read_text(encoding="utf-8").replace("organ", "bone"), encoding="utf-8")
    cases = [case | {"task": folder.name} for folder in folders for case in decathlon_cases(folder)]
    assert measure_cases(cases[:2]).alike
    assert not measure_cases(cases).alike
    assert values(choose_classes(replace(DATA, alike=False), sigmoid=True)) == {"in_channels": 1}


def test_steps_of_any_output_are_timed():
    output = {"a": torch.ones(2), "b": [torch.ones(1), torch.ones(3) * 2]}
    assert total(output).item() == 4.0
    assert seconds_per_step(nn.Conv2d(1, 1, 3), 1, 1, (8, 8), torch.device("cpu")) > 0.0


def test_training_goes_by_the_plan(make_dataset, repository, run_config, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.argv", ["trustseg"])
    bundle = repository / "bundles" / "spectral_ood"
    data = make_dataset(tmp_path / "organ")
    plan = tmp_path / "plan.json"
    small = {"batch_size": 1, "max_epochs": 1, "iterations": 2, "network_def#features": [2, 2, 2]}
    caplog.set_level("INFO")
    plan_training(str(data), str(bundle), minutes=0.001, output=str(plan), **small)
    given = "--batch_size 1 --max_epochs 1 --iterations 2 --network_def#features '[2, 2, 2]'"
    assert f"trustseg train {data} -o my_run --minutes 0.001 {given}" in caplog.text
    content = json.loads(plan.read_text(encoding="utf-8"))
    assert content["roi_size"] == [24, 24, 16]
    rows = {row["setting"]: row for row in content["plan"]}
    assert (rows["iterations"]["why"], rows["max_epochs"]["why"]) == ("given", "given")
    assert rows["out_channels"]["why"] in caplog.text
    places = {"dataset_dir": data, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"}
    run_config(bundle, ["train.json", str(plan)], tiny=False, quality_cases=0, **places)
    # MONAI's parser writes a::b for a#b.
    kept = json.loads((tmp_path / "m" / "plan.json").read_text(encoding="utf-8").replace("::", "#"))
    assert kept == {"plan": content["plan"]}
    settings = json.loads((tmp_path / "m" / "model_settings.json").read_text(encoding="utf-8"))
    assert settings["roi_size"] == [24, 24, 16]
    assert settings["network_def"]["features"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"minutes": 0}, ConfigError, "^minutes is 0; accepted are numbers above 0$"),
        ({"bundle": "nobody"}, MissingDataError, "^there is no bundle 'nobody' in "),
        (
            {"bundle": "med_ood"},
            ConfigError,
            "^the images have 3 axes, but med_ood is for 2; .*, or cut the volumes by python -m common slices$",
        ),
        ({"colour": 3}, ConfigError, "^unknown option --colour: train.json of spectral_ood has no such key$"),
    ],
)
def test_plan_that_cannot_be_made_is_one_line(make_dataset, repository, tmp_path, options, error, message):
    data = make_dataset(tmp_path / "organ", 2)
    with pytest.raises(error, match=message):
        plan_training(
            str(data), **{"output": str(tmp_path / "p.json"), "bundles": str(repository / "bundles")} | options
        )
    assert not (tmp_path / "p.json").exists()

"""Measures of persons whose cases are slices: put together before they are measured."""

import numpy as np
import pytest
import torch

from common.engine.measures import measure_groups, measure_persons
from common.transforms import MeasureSegmentationd


def row(case, matrix=None, patient=None, group="a", **channels):
    """A case with the Dice of its channels."""
    metrics = {name: {"dsc": dice, "assd": 2 * dice, "hd95": 3 * dice} for name, dice in channels.items()}
    overlaps = {name: (round(100 * dice), 100, 100) for name, dice in channels.items() if dice == dice}
    row = {"case": case, "group": group, "metrics": metrics, "overlaps": overlaps, "patient": patient}
    return row | ({} if matrix is None else {"confusion": np.array(matrix)})


def test_slices_of_a_patient_are_added_up():
    """The empty slice of the first patient has false positives, which its Dice pays for."""
    rows = [
        row("s1", [[90, 0], [5, 5]], "p1", **{"1": 2 / 3}), row("s2", [[96, 4], [0, 0]], "p1", **{"1": float("nan")}),
        row("s3", [[90, 0], [0, 10]], "p2", **{"1": 1.0}),
    ]  # fmt: skip
    measures = measure_persons(rows)
    assert measures["dsc"] == pytest.approx({"": 30 / (20 + 19), "p1": 10 / (10 + 9), "p2": 1.0})
    assert measures["dsc_1"] == measures["dsc"]
    assert measures["false_positives"] == {"": 4, "p1": 4, "p2": 0}
    assert measures["false_alarm"] == {"": 1.0, "p1": 1.0}, "only the first patient has an empty slice"
    assert measures["assd"] == pytest.approx({"": (4 / 3 + 2) / 2, "p1": 4 / 3, "p2": 2.0})
    ious = [95 / 105, 96 / 104, 1.0]
    assert measures["iou_pooled"] == pytest.approx({"": sum(ious) / 3, "p1": sum(ious[:2]) / 2, "p2": 1.0})
    constant = [90 / 110, 1.0, 90 / 110]
    assert measures["iou_pooled_constant"][""] == pytest.approx(sum(constant) / 3)


def test_absent_class_counts_in_no_mean():
    measures = measure_persons([row("c", [[8, 0, 0], [1, 1, 0], [0, 0, 0]], **{"1": 2 / 3, "2": float("nan")})])
    assert measures["dsc"] == measures["dsc_1"] == pytest.approx({"": 2 / 3, "c": 2 / 3})
    assert "dsc_2" not in measures


def test_distances_are_averaged():
    rows = [row("v1", patient=7, a=0.5, b=0.7), row("v2", patient=7, a=0.9), row("v3", a=0.1, b=0.1)]
    measures = measure_persons(rows)
    assert measures["dsc_a"] == pytest.approx({"": 0.5, "7": 0.7, "v3": 0.1}), "all of one size"
    assert measures["hd95"]["7"] == pytest.approx(3 * (0.5 + 0.7 + 0.9) / 3)
    assert "false_positives" not in measures


def slow_dice(pairs):
    """The Dice of masks of several images, voxel by voxel."""
    shared = total = truth = 0
    for mask, true in pairs:
        for predicted, target in zip(mask.flatten().tolist(), true.flatten().tolist(), strict=True):
            shared += predicted * target
            total += predicted + target
            truth += target
    return 2 * shared / total if truth else float("nan")


def test_voxels_of_overlapping_channels_are_added_up_as_in_a_slow_reference():
    """Scans of unlike sizes; the second does not show the second structure and finds it all the same."""
    draw = torch.Generator().manual_seed(0)
    cases, masks = [], []
    for number, size in enumerate([(2, 3, 4), (5, 4, 3), (1, 2, 9)]):
        probability, truth = torch.rand(2, *size, generator=draw), torch.rand(2, *size, generator=draw).round()
        truth[1] *= number != 1
        measured = MeasureSegmentationd("pred")({"image": probability, "pred": probability, "label": truth})
        name = {"case": f"c{number}", "patient": "p1" if number < 2 else "p2"}
        cases.append(name | {key: measured[key] for key in ("metrics", "overlaps")})
        masks.append((probability.gt(0.5).int(), truth.int()))
    measures = measure_persons(cases)
    for person, own in (("", masks), ("p1", masks[:2]), ("p2", masks[2:])):
        dices = [slow_dice([(mask[channel], true[channel]) for mask, true in own]) for channel in (0, 1)]
        assert [measures[f"dsc_{name}"][person] for name in "12"] == pytest.approx(dices)
        assert measures["dsc"][person] == pytest.approx(sum(dices) / 2)
    alone = measure_persons(cases[1:2])
    assert "dsc_2" not in alone, "no voxel of it in the ground truth"
    assert alone["dsc"]["p1"] == pytest.approx(slow_dice([(mask[0], true[0]) for mask, true in masks[1:2]]))


def test_patients_of_two_data_sets_are_told_apart():
    measures = measure_persons([row("c", group="a", patient="1", x=0.2), row("d", group="b", patient="1", x=0.4)])
    assert measures["dsc"] == pytest.approx({"": 0.3, "a/1": 0.2, "b/1": 0.4})


def test_groups_are_measured_apart_under_the_names_of_their_patients():
    rows = [
        row("c", group="a", patient="1", x=0.2),
        row("d", group="b", patient="1", x=0.4),
        row("e", group="a", x=0.6),
    ]
    measures = measure_groups(rows)
    assert measures["a"]["dsc"] == pytest.approx({"": 0.4, "1": 0.2, "e": 0.6})
    assert measures["b"]["dsc"] == pytest.approx({"": 0.4, "1": 0.4})


def test_calibration_is_averaged_over_the_cases_of_a_patient():
    rows = [row("v1", patient=7, a=0.5), row("v2", patient=7, a=0.5)]
    for number, case in enumerate(rows):
        case["metrics"]["a"] |= {"ece": 0.1 + 0.2 * number, "mce": float("nan") if number else 0.5}
    measures = measure_persons(rows)
    assert measures["ece"] == pytest.approx({"": 0.2, "7": 0.2})
    assert measures["mce"] == pytest.approx({"": 0.5, "7": 0.5})


def test_cases_without_labels_have_no_measures():
    assert measure_persons([{"case": "c", "error": "broken"}]) == {}


def test_rarest_classes_are_those_of_the_whole_test_set():
    """Class 4 is common in the first patient alone; class 5 occurs nowhere."""
    voxels = [(20, 3, 8, 30, 0), (40, 5, 9, 0, 0)]
    rows = []
    for name, counts in zip(("p1", "p2"), voxels, strict=True):
        # Half of class 2 and all others are found.
        matrix = np.diag([100, *counts])
        matrix[2, 2], matrix[2, 0] = counts[1] // 2, counts[1] - counts[1] // 2
        rows.append(row(name, matrix))
    measures = measure_persons(rows)
    half = [2 / (3 + 1), 4 / (5 + 2), 6 / (8 + 3)]
    # Classes 2, 3 and 4; the second patient has no class 4.
    assert measures["dsc_rarest"] == pytest.approx(
        {"": (half[2] + 2) / 3, "p1": (half[0] + 2) / 3, "p2": (half[1] + 1) / 2}
    )
    assert "dsc_rarest" not in measure_persons([row("c", np.diag([9, 1, 2, 3]))]), "no three of three are the rarest"
    assert "dsc_rarest" not in measure_persons([row("c", a=0.5, b=0.5, c=0.5, d=0.5)]), "channels have no matrix"

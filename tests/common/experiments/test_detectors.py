"""A comparison of detectors, from scans to the report, with a tiny network and scans that are made on the spot."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from common.detectors import DetectorCatalog
from common.engine.inference_checks import InferencePreflight
from common.errors import CasesFailedError, MissingDataError, NotEnoughCasesError
from common.experiments.described import read_described, write_described
from common.experiments.detection_report import COLUMNS, write_detection_report
from common.experiments.detectors import DetectorComparison
from common.metrics.detection import expected_performance_drop
from common.networks import DenseSkipUNet
from common.runtime.weights import save_atomically
from common.spectral import SignatureBank, SpectralInferer, spectral_signature
from common.spectral.distance import nearest_distance

SIZE = (8, 8, 8)
LAYERS = ["encoders.0", "encoders.1", "decoders.0"]


def make_cases(number, start=0, *, group="organ", known=True, label=True):
    names = [f"{group}{k}" for k in range(start, start + number)]
    return [{"case": n, "task": "organ", "image": k + start, "group": group, "in_distribution": known}
            | ({"label": 1} if label else {}) for k, n in enumerate(names)]  # fmt: skip


def prepare(case):
    """A bright ball in a little noise; an inverted one is dark in brightness; another one is loud noise alone."""
    if case["case"].startswith("broken"):
        raise OSError("no such scan")
    generator = torch.Generator().manual_seed(case["image"] + 1000 * (not case["in_distribution"]))
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SIZE], indexing="ij"))
    ball = (grid.square().sum(dim=0) < 0.5 + 0.02 * (case["image"] % 5)).float()[None]
    noise = torch.randn(ball.shape, generator=generator)
    image = {"noise": 8 * noise, "inverted": 1 - ball + 0.05 * noise}.get(case["group"], ball + 0.05 * noise)
    return case | {"image": image} | ({"label": ball} if "label" in case else {})


class Comparison(DetectorComparison):
    """A comparison with a tiny network, whose weights lie in the folder of the results."""

    def __init__(self, folder, train, data, **settings):
        torch.manual_seed(0)
        network = DenseSkipUNet(3, 1, 1, features=(3, 4), norm=None, dropout=0.1)
        nn.init.constant_(network.head.bias, 0.1)
        save_atomically(network.state_dict(), folder / "model.pt")
        nn.init.zeros_(network.head.weight)
        inferer = SpectralInferer(SIZE, LAYERS, divisor=network.divisor)
        preflight = InferencePreflight(network, str(folder / "model.pt"), "", inferer, (), str(folder), "cpu")
        catalog = DetectorCatalog(LAYERS, "encoders.1", exposure_file=str(folder / "model.pt"), dropout_passes=2)
        cpu = torch.device("cpu")
        super().__init__(
            preflight, network, inferer, train, data, prepare, catalog, cpu, str(folder), **{"cost_scans": 0} | settings
        )


TRAIN = make_cases(8)
DATA = [
    *make_cases(4, 10),
    *make_cases(3, group="noise", known=False),
    *make_cases(3, 20, group="inverted", known=False),
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    comparison = Comparison(folder, TRAIN, DATA, name="tiny", seed=3, cost_scans=1)
    comparison.run()
    return comparison, pd.read_csv(folder / "tiny.csv", keep_default_na=False), folder


def values(rows, arm, metric, group=None):
    chosen = rows[(rows["arm"] == arm) & (rows["metric"] == metric) & (rows["case"] != "")]
    if group is not None:
        chosen = chosen[chosen["group"] == group]
    return chosen.set_index("case")["value"]


def line_of(folder, file, **keys):
    table = pd.read_csv(folder / "report" / file)
    for key, value in keys.items():
        table = table[table[key] == value]
    (line,) = table.to_dict("records")
    return line


@pytest.mark.parametrize(
    "name",
    [
        "signature",
        "signature_mahalanobis",
        "signature_full",
        "signature_full_clusters",
        "signature_full_image",
        "signature_full_image_clusters",
        "signature_layers_per_voxel_mahalanobis",
        "mahalanobis",
        "ihf",
        "knn",
    ],
)
@pytest.mark.parametrize("group", ["noise", "inverted"])
def test_grossly_abnormal_scans_are_found_by_features_and_intensities(compared, name, group):
    line = line_of(compared[2], "groups.csv", arm=name, group=group)
    assert (line["auc"], line["aupr"], line["fpr_at_95_tpr"]) == (1.0, 1.0, 0.0)


def dice_by_hand(network, case):
    data = prepare(case)
    with torch.no_grad():
        predicted = network(data["image"][None])[0].sigmoid() > 0.5
    truth = data["label"] > 0
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def test_rows_tell_dice_and_scores_of_every_case(compared):
    comparison, rows, _ = compared
    assert tuple(rows.columns) == COLUMNS
    dice = values(rows, "segmentation", "dsc")
    assert dice.to_dict() == pytest.approx(
        {case["case"]: dice_by_hand(comparison.network, case) for case in DATA}, abs=1e-6
    )
    for arm in rows["arm"].unique():
        if arm != "segmentation":
            found = rows[(rows["arm"] == arm) & (rows["metric"] == "score") & (rows["group"] != "training")]
            assert found["case"].tolist() == [case["case"] for case in DATA]
            assert found["in_distribution"].tolist() == [str(case["in_distribution"]) for case in DATA]
    assert set(rows["experiment"]) == {"tiny"}
    assert set(rows["dataset"]) == {"organ"}
    assert set(rows["seed"]) == {3}


def test_the_paper_s_detector_is_its_bank(compared):
    comparison, rows, _ = compared
    features = []
    with torch.no_grad(), comparison.network.decoders[0].register_forward_hook(lambda *args: features.append(args[2])):
        for case in TRAIN + DATA:
            comparison.network(prepare(case)["image"][None])
    signatures = np.stack([spectral_signature(f[0]).numpy() for f in features])
    bank = SignatureBank.fit(signatures[: len(TRAIN)])
    scores = nearest_distance(signatures[len(TRAIN) :], bank.signatures)
    assert values(rows, "signature", "score").iloc[len(TRAIN) :].tolist() == pytest.approx(scores, rel=1e-5)
    threshold = rows[(rows["arm"] == "signature") & (rows["metric"] == "threshold")]["value"]
    assert threshold.tolist() == pytest.approx([bank.threshold], rel=1e-5)


def test_report_is_computed_from_the_rows(compared):
    _, rows, folder = compared
    for arm in ("entropy", "signature_per_voxel", "odin", "unc_dropout"):
        scores = values(rows, arm, "score").drop(labels=[str(k) for k in range(len(TRAIN))])
        dice = values(rows, "segmentation", "dsc")[scores.index]
        inside = [case["case"] for case in DATA if case["in_distribution"]]
        strange = [case["case"] for case in DATA if case["group"] == "noise"]
        truth, judged = [0] * len(inside) + [1] * len(strange), scores[inside + strange]
        line = line_of(folder, "groups.csv", arm=arm, group="noise")
        assert line["auc"] == pytest.approx(roc_auc_score(truth, judged))
        assert line["aupr"] == pytest.approx(average_precision_score(truth, judged))
        assert line["dsc_drop"] == pytest.approx(dice[inside].mean() - dice[strange].mean())
        line = line_of(folder, "detectors.csv", arm=arm)
        assert line["spearman_dsc"] == pytest.approx(spearmanr(scores, dice).statistic)
        outside = [case["case"] for case in DATA if not case["in_distribution"]]
        expected = expected_performance_drop(
            scores[inside], scores[outside], dice[outside], reference_dice=dice[inside].mean()
        )
        assert line["epd"] == pytest.approx(expected)
        assert line["epd"] <= line["epd_without_detector"]
        assert line["false_alarms"] == pytest.approx((scores[inside] > line["threshold"]).mean())
        assert line["specificity"] == pytest.approx(1 - line["false_alarms"])


def test_a_network_of_its_own_is_judged_by_its_own_dice(compared):
    _, rows, _ = compared
    # The same weights: the same Dice, told once more.
    pd.testing.assert_series_equal(values(rows, "outlier_exposure", "dsc"), values(rows, "segmentation", "dsc"))
    own = rows[(rows["metric"] == "dsc") & (rows["case"] != "")]["arm"].unique()
    assert own.tolist() == ["segmentation", "outlier_exposure"]


def test_cost_is_told_beside_that_of_the_segmentation(compared):
    _, _, folder = compared
    table = pd.read_csv(folder / "report" / "detectors.csv").set_index("arm")
    assert (table["seconds_per_scan"] > 0).all()
    assert (table["times_segmentation"] > 0).all()


def test_tables_and_pictures_are_written(compared, read_picture):
    folder = compared[2] / "report"
    for kind in ("finds", "ranks", "costs"):
        read_picture(folder / f"{kind}_organ.png")
    text = (folder / "tables.md").read_text(encoding="utf-8")
    assert "| detector | noise | inverted |" in text
    assert "| mean DSC |" in text


@pytest.mark.usefixtures("blank_pictures")
def test_finished_groups_are_not_measured_again(compared, monkeypatch):
    comparison, rows, folder = compared
    loaded = []
    monkeypatch.setattr(comparison, "transform", prepare)
    original = comparison._load
    monkeypatch.setattr(comparison, "_load", lambda cases, group: loaded.append(group) or original(cases, group))
    comparison.run()
    assert loaded == []
    next((folder / "described").rglob("noise.npz")).unlink()
    comparison.run()
    assert loaded == ["noise"]
    again = pd.read_csv(folder / "tiny.csv", keep_default_na=False)
    scored = rows["metric"].isin(["score", "dsc", "threshold"])
    pd.testing.assert_frame_equal(again[scored], rows[scored])


@pytest.mark.usefixtures("blank_pictures")
def test_a_further_detector_measures_what_is_missing_alone(compared, tmp_path, monkeypatch):
    """Same values as a comparison that has it from the start; nothing else is measured again."""
    _, before, folder = compared
    later = Comparison(folder, TRAIN, DATA, name="later", seed=3, cost_scans=1)
    later.catalog.dropout_passes = 3
    taken = []
    describe = DetectorComparison._describe
    monkeypatch.setattr(
        DetectorComparison,
        "_describe",
        lambda self, case, measures: taken.append(set(measures)) or describe(self, case, measures),
    )
    later.run()
    assert len(taken) == len(TRAIN) + len(DATA)
    assert all(len(names) == 1 and next(iter(names)).startswith("unc_dropout@") for names in taken)
    rows = pd.read_csv(folder / "later.csv", keep_default_na=False)
    for arm in before["arm"].unique():
        found, first = values(rows, arm, "score"), values(before, arm, "score")
        assert found.equals(first) == (arm != "unc_dropout") or arm == "segmentation"
    fresh = Comparison(tmp_path, TRAIN, DATA, name="fresh", seed=3)
    fresh.catalog.dropout_passes = 3
    fresh.run()
    whole = pd.read_csv(tmp_path / "fresh.csv", keep_default_na=False)
    assert values(whole, "unc_dropout", "score").equals(values(rows, "unc_dropout", "score"))


@pytest.mark.usefixtures("blank_pictures")
def test_several_comparisons_make_one_report(compared, tmp_path):
    _, rows, folder = compared
    rows.assign(dataset="other").to_csv(tmp_path / "other.csv", index=False)
    write_detection_report(folder / "tiny.csv", tmp_path / "other.csv", into=tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "detectors.csv").drop(columns=["seconds_per_scan", "times_segmentation"])
    assert table["dataset"].unique().tolist() == ["organ", "other"]
    assert (tmp_path / "report" / "finds_other.png").is_file()
    first, second = (part.drop(columns="dataset").reset_index(drop=True) for _, part in table.groupby("dataset"))
    pd.testing.assert_frame_equal(first, second)


def test_a_report_needs_rows_of_detectors(tmp_path):
    with pytest.raises(MissingDataError, match="no file of rows is given"):
        write_detection_report()
    columns = COLUMNS[:-2]
    with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, ["1"] * len(columns)])
    with pytest.raises(MissingDataError, match="has no column 'group'"):
        write_detection_report(tmp_path / "rows.csv")


def test_comparison_needs_every_case(tmp_path):
    with pytest.raises(CasesFailedError, match="no such scan"):
        Comparison(tmp_path, make_cases(2) + make_cases(1, group="broken"), DATA).run()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_comparison_without_weights_stops_before_anything_is_computed(tmp_path):
    comparison = Comparison(tmp_path, TRAIN, DATA)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(MissingDataError, match=r"no weights at .*model\.pt"):
        comparison.run()


def test_few_training_cases_leave_detectors_out(tmp_path):
    rows = Comparison(tmp_path, TRAIN[:2], DATA[:4]).run()
    arms = {row["arm"] for row in rows}
    assert "signature" in arms
    assert arms.isdisjoint({"signature_mahalanobis", "dknn", "ihf", "mahalanobis"})


def test_no_training_case_is_an_error(tmp_path):
    with pytest.raises(NotEnoughCasesError, match=r"0 training case\(s\)"):
        Comparison(tmp_path, [], DATA[:2]).run()


def test_scans_without_labels_are_scored_without_dice(tmp_path):
    data = [*make_cases(3, 10, label=False), *make_cases(2, group="noise", known=False, label=False)]
    Comparison(tmp_path, TRAIN[:5], data).run()
    line = line_of(tmp_path, "detectors.csv", arm="signature")
    assert line["mean_auc"] == 1.0
    assert np.isnan(line["epd"])


def test_without_other_scans_false_alarms_are_told(tmp_path):
    Comparison(tmp_path, TRAIN[:5], make_cases(3, 10)).run()
    line = line_of(tmp_path, "detectors.csv", arm="ihf")
    assert 0 <= line["false_alarms"] <= 1
    assert np.isnan(line["mean_auc"])


def test_what_was_measured_is_read_back(tmp_path):
    cases = [{"case": "a|b", "dsc": 0.5, "x": np.array([1.0, np.nan])}, {"case": "c", "x": np.zeros((2, 3))}]
    write_described(cases, tmp_path / "g.npz")
    found = read_described(tmp_path / "g.npz")
    assert [case["case"] for case in found] == ["a|b", "c"]
    np.testing.assert_array_equal(found[0]["x"], cases[0]["x"])
    assert found[1]["x"].shape == (2, 3)
    assert read_described(tmp_path / "none.npz") is None
    (tmp_path / "g.npz").write_bytes(b"PK damaged")
    with pytest.raises(MissingDataError, match="remove it and run again"):
        read_described(tmp_path / "g.npz")

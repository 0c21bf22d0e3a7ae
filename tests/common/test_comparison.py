import csv
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.testing import assert_close

from common.engine.inference_checks import InferencePreflight
from common.errors import CasesFailedError, MissingDataError
from common.experiments.detectors import DetectorComparison, foreground_entropy, intensity_histogram, pca_mahalanobis
from common.networks import DenseSkipUNet
from common.runtime.weights import save_atomically
from common.spectral import SignatureBank, SpectralInferer, spectral_signature
from common.spectral.distance import nearest_distance


def test_histogram_is_the_share_of_voxels_in_each_bin():
    image = torch.tensor([[[-7.0, -2.0, -1.5, 0.0], [0.3, 0.7, 2.0, 99.0]]])
    # Bins of width one from -2 to 2; what lies outside counts at the ends, the upper limit in the last bin.
    counts = intensity_histogram(image, bins=4, low=-2.0, high=2.0)
    assert counts.tolist() == [3 / 8, 0.0, 3 / 8, 2 / 8]
    assert counts.dtype == np.float64


def test_default_histogram_is_numpy_s():
    image = 3 * torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, _ = np.histogram(np.clip(image.numpy(), -2, 10), bins=150, range=(-2, 10))
    assert_close(intensity_histogram(image), expected / image.numel(), rtol=0, atol=2.5 / image.numel())
    assert intensity_histogram(image).sum() == pytest.approx(1.0)


def test_entropy_is_the_mean_over_the_predicted_foreground():
    probability = torch.tensor([0.9, 0.6, 0.5, 0.1], dtype=torch.float64)
    by_hand = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.9, 0.6)]
    assert foreground_entropy(probability.logit()) == pytest.approx(np.mean(by_hand), abs=1e-12)


@pytest.mark.parametrize(("logit", "entropy"), [(-3.0, math.log(2)), (0.0, math.log(2)), (1e4, 0.0)])
def test_entropy_is_the_most_without_foreground_and_none_when_certain(logit, entropy):
    assert foreground_entropy(torch.full((1, 1, 2, 2), logit)) == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("variance", [0.5, 0.95])
def test_pca_mahalanobis_is_that_of_numpy(variance):
    rng = np.random.default_rng(0)
    reference, features = rng.normal(size=(12, 5)) * [5, 3, 1, 0.5, 0.1], rng.normal(size=(4, 5)) * 3
    mean = reference.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(reference, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = next(k for k in range(1, 6) if values[:k].sum() / values.sum() > variance)
    expected = [
        math.sqrt(sum(((row - mean) @ vectors[:, k]) ** 2 / values[k] for k in range(kept))) for row in features
    ]
    assert pca_mahalanobis(features, reference, variance=variance) == pytest.approx(np.array(expected))
    assert pca_mahalanobis(mean[None], reference, variance=variance) == pytest.approx([0.0], abs=1e-9)


SIZE = (8, 8, 8)


def make_cases(number, start=0, *, group="organ", known=True, label=True):
    names = [f"{group}{k}" for k in range(start, start + number)]
    return [{"case": n, "image": k + start, "group": group, "in_distribution": known} | ({"label": 1} if label else {})
            for k, n in enumerate(names)]  # fmt: skip


def prepare(case):
    """A bright ball in a little noise; a strange image is loud noise alone."""
    generator = torch.Generator().manual_seed(case["image"] + 1000 * (not case["in_distribution"]))
    if case["case"] == "broken0":
        raise OSError("no such scan")
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SIZE], indexing="ij"))
    ball = (grid.square().sum(dim=0) < 0.3 + 0.02 * (case["image"] % 5)).float()[None]
    noise = torch.randn(ball.shape, generator=generator)
    image = ball + 0.05 * noise if case["in_distribution"] else 8 * noise
    return case | {"image": image} | ({"label": ball} if "label" in case else {})


class Comparison(DetectorComparison):
    """A comparison with a tiny network, whose weights lie in the folder of the results."""

    def __init__(self, folder, train, data):
        torch.manual_seed(0)
        network = DenseSkipUNet(3, 1, 1, features=(3, 4), norm=None)
        nn.init.constant_(network.head.bias, 0.1)
        save_atomically(network.state_dict(), folder / "model.pt")
        nn.init.zeros_(network.head.weight)
        inferer = SpectralInferer(SIZE, ["encoders.0", "decoders.0"], divisor=network.divisor)
        preflight = InferencePreflight(network, str(folder / "model.pt"), "", inferer, (), str(folder), "cpu")
        cpu = torch.device("cpu")
        super().__init__(preflight, network, inferer, train, data, prepare, "encoders.1", cpu, str(folder))


TRAIN = make_cases(6)
DATA = [*make_cases(4, 10), *make_cases(3, group="noise", known=False), *make_cases(2, 20, group="loud", known=False)]
DETECTORS = [
    *(
        f"signature, {layers}, {distance}"
        for layers in ("last layer", "last layer, per voxel", "all layers", "all layers, per voxel")
        for distance in ("nearest", "mahalanobis")
    ),
    "intensity histogram",
    "pooled bottleneck features",
    "foreground entropy",
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    comparison = Comparison(folder, TRAIN, DATA)
    return comparison, comparison.run(), folder


def dice_by_hand(network, case):
    data = prepare(case)
    with torch.no_grad():
        predicted = network(data["image"][None])[0].sigmoid() > 0.5
    truth = data["label"] > 0
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def test_grossly_strange_scans_are_told_by_every_detector_of_features_and_intensities(compared):
    _, report, _ = compared
    assert list(report["detectors"]) == DETECTORS
    for name in DETECTORS[:-1]:
        figures = report["detectors"][name]
        assert figures["auc"] == {"noise": 1.0, "loud": 1.0}, name
        assert (figures["worst"], figures["mean"]) == (1.0, 1.0)
    entropy = report["detectors"]["foreground entropy"]
    assert entropy["worst"] == min(entropy["auc"].values())
    assert entropy["mean"] == pytest.approx(np.mean(list(entropy["auc"].values())))


def test_dice_is_that_of_the_loaded_weights(compared):
    comparison, report, _ = compared
    for group in ("noise", "loud"):
        expected = np.mean([dice_by_hand(comparison.network, case) for case in DATA if case["group"] == group])
        assert report["dice"][group] == pytest.approx(expected)
    known = np.mean([dice_by_hand(comparison.network, case) for case in DATA if case["in_distribution"]])
    assert report["dice"]["in_distribution"] == pytest.approx(known)
    assert list(report["dice"]) == ["in_distribution", "noise", "loud"]


def test_figures_of_the_paper_s_detector_are_those_of_its_bank(compared):
    comparison, report, _ = compared
    features = []
    with torch.no_grad(), comparison.network.decoders[0].register_forward_hook(lambda *args: features.append(args[2])):
        for case in TRAIN + DATA:
            comparison.network(prepare(case)["image"][None])
    signatures = np.stack([spectral_signature(f[0]).numpy() for f in features])
    bank = SignatureBank.fit(signatures[: len(TRAIN)])
    scores = nearest_distance(signatures[len(TRAIN) :], bank.signatures)
    figures = report["detectors"]["signature, last layer, nearest"]
    assert figures["false_alarms"] == np.mean(scores[:4] > bank.threshold)
    dice = [dice_by_hand(comparison.network, case) for case in DATA]
    assert figures["rank_correlation_dsc"] == pytest.approx(spearmanr(scores, dice).statistic)


def test_table_is_written_as_csv_json_and_picture(compared, read_picture):
    _, report, folder = compared
    assert json.loads((folder / "comparison.json").read_text()) == report
    read_picture(folder / "comparison.png")
    with open(folder / "comparison.csv", newline="", encoding="utf-8") as file:
        first, *lines = csv.DictReader(file)
    columns = ["detector", "noise", "loud", "worst", "mean", "false_alarms", "rank_correlation_dsc"]
    assert list(first) == columns
    assert first["detector"] == "mean DSC"
    assert [float(first[group]) for group in ("noise", "loud")] == [report["dice"][g] for g in ("noise", "loud")]
    assert [first[name] for name in columns[3:]] == [""] * 4
    assert [line["detector"] for line in lines] == DETECTORS
    for line in lines:
        figures = report["detectors"][line["detector"]]
        written = [figures["auc"]["noise"], figures["auc"]["loud"], *(figures[name] for name in columns[3:])]
        assert [float(line[name]) for name in columns[1:]] == written


def test_hooks_are_gone_afterwards(compared):
    assert not any(module._forward_hooks for module in compared[0].network.modules())


def test_comparison_needs_every_case(tmp_path):
    broken = make_cases(1, group="broken")
    with pytest.raises(CasesFailedError, match="no such scan"):
        Comparison(tmp_path, make_cases(2) + broken, DATA).run()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_comparison_without_weights_stops_before_anything_is_computed(tmp_path):
    comparison = Comparison(tmp_path, TRAIN, DATA)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(MissingDataError, match=r"no weights at .*model\.pt"):
        comparison.run()


def test_comparison_of_scans_without_labels_writes_json(tmp_path):
    data = [*make_cases(2, 10, label=False), *make_cases(2, group="noise", known=False, label=False)]
    Comparison(tmp_path, TRAIN[:3], data).run()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    written = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=refuse)
    assert written["dice"] == {"in_distribution": None, "noise": None}


def test_comparison_without_strange_scans_still_tells_false_alarms(tmp_path):
    report = Comparison(tmp_path, TRAIN[:3], make_cases(3, 10)).run()
    assert 0 <= report["detectors"]["intensity histogram"]["false_alarms"] <= 1

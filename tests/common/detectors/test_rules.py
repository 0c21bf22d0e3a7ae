"""What detectors learn of training cases, and how they judge by it."""

import math

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA

from common.detectors import (
    ClassMahalanobis,
    DeepNearestNeighbors,
    Detector,
    KNearest,
    LayeredSignatureDistance,
    OwnValue,
    PCAMahalanobis,
    PCANearest,
    SignatureDistance,
)
from common.errors import FeatureError, NotEnoughCasesError
from common.spectral import SignatureBank


def rows(number=12, size=5, seed=0):
    return list(np.random.default_rng(seed).normal(size=(number, size)) * np.linspace(3, 0.3, size))


TASKS = ["a"] * 12


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis"])
def test_signature_rule_is_the_bank(distance):
    bank = SignatureBank.fit(rows(), distance=distance)
    detector = Detector("s", "v", SignatureDistance(distance)).fit([{"v": row} for row in rows()])
    strange = rows(seed=1)[0]
    assert detector.score({"v": strange}) == pytest.approx(bank.oodm(strange))
    assert detector.threshold_ == pytest.approx(bank.threshold)


@pytest.mark.parametrize("distance", ["ledoit_wolf", "clusters"])
def test_layered_rule_is_the_bank_of_several_layers(distance):
    sizes = (2, 3)
    bank = SignatureBank.fit(rows(), distance=distance, layer_sizes=sizes)
    described = [np.concatenate([[2, *sizes], row]) for row in rows()]
    detector = Detector("s", "v", LayeredSignatureDistance(distance)).fit([{"v": row} for row in described])
    strange = rows(seed=1)[0]
    assert detector.score({"v": np.concatenate([[2, *sizes], strange])}) == pytest.approx(bank.oodm(strange))
    assert detector.threshold_ == pytest.approx(bank.threshold)


def test_k_th_neighbor_by_hand():
    reference = [np.array([0.0, 0.0]), np.array([3.0, 4.0]), np.array([6.0, 8.0])]
    rule = KNearest(2).fit(reference, TASKS[:3])
    assert rule.score(np.array([0.0, 0.0])) == pytest.approx(5.0)
    assert KNearest(9).fit(reference, TASKS[:3]).score(np.array([0.0, 0.0])) == pytest.approx(10.0)
    assert KNearest(1).held_out(reference, TASKS[:3]) == pytest.approx([5.0, 5.0, 5.0])


def test_scaled_neighbors_differ_in_direction_alone():
    rule = KNearest(1, normalize=True).fit([np.array([0.0, 2.0])], ["a"])
    assert rule.score(np.array([0.0, 9.0])) == pytest.approx(0.0)
    assert rule.score(np.array([5.0, 0.0])) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("variance", [0.5, 0.95])
def test_pca_mahalanobis_is_that_of_numpy(variance):
    reference, row = np.stack(rows()), np.random.default_rng(5).normal(size=5)
    values, vectors = np.linalg.eigh(np.cov(reference, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = next(k for k in range(1, 6) if values[:k].sum() / values.sum() > variance)
    apart = (row - reference.mean(axis=0)) @ vectors[:, :kept]
    rule = PCAMahalanobis(variance).fit(list(reference), TASKS)
    assert rule.score(row) == pytest.approx(math.sqrt((apart**2 / values[:kept]).sum()))


def test_pca_nearest_is_the_distance_in_the_components():
    reference, row = np.stack(rows()), np.random.default_rng(5).normal(size=5)
    analysis = PCA(n_components=0.95).fit(reference)
    expected = min(np.linalg.norm(analysis.transform(row[None])[0] - found) for found in analysis.transform(reference))
    assert PCANearest().fit(list(reference), TASKS).score(row) == pytest.approx(expected)


def class_rows(seed=0):
    """Mean features of two classes that lie apart, of twelve cases; the third has no foreground."""
    rng = np.random.default_rng(seed)
    found = [np.stack([rng.normal(size=3), 10 + rng.normal(size=3)]) for _ in range(12)]
    found[2][1] = np.nan
    return found


def test_class_mahalanobis_is_that_of_a_shared_shrunk_covariance():
    training, judged = class_rows(), np.array([[1.0, 2.0, 3.0], [11.0, 9.0, 14.0]])
    background = np.stack([row[0] for row in training])
    foreground = np.stack([row[1] for k, row in enumerate(training) if k != 2])
    centered = np.concatenate([background - background.mean(axis=0), foreground - foreground.mean(axis=0)])
    inverse = np.linalg.inv(ledoit_wolf(centered, assume_centered=True)[0])
    apart = [judged[0] - background.mean(axis=0), judged[1] - foreground.mean(axis=0)]
    expected = np.mean([math.sqrt(a @ inverse @ a) for a in apart])
    assert ClassMahalanobis().fit(training, TASKS).score(judged) == pytest.approx(expected)


def test_class_mahalanobis_goes_by_the_nearest_class_and_leaves_absent_ones_out():
    rule = ClassMahalanobis().fit(class_rows(), TASKS)
    swapped = np.array([[10.0, 10.0, 10.0], [np.nan] * 3])
    assert rule.score(swapped) < 2
    assert rule.score(np.array([[5.0, 5.0, 5.0], [np.nan] * 3])) > 5


def test_held_out_scores_are_of_rules_that_have_not_seen_the_case():
    training = rows()
    scores = PCAMahalanobis().held_out(training, TASKS)
    assert scores[3] == pytest.approx(PCAMahalanobis().fit(training[:3] + training[4:], TASKS[1:]).score(training[3]))
    seen = [PCAMahalanobis().fit(training, TASKS).score(row) for row in training]
    assert np.mean(scores) > np.mean(seen)


def test_threshold_is_mean_and_deviations_of_held_out_scores():
    detector = Detector("d", "v", OwnValue(), c=2.0).fit([{"v": np.array([value])} for value in (1.0, 2.0, 6.0)])
    assert detector.threshold_ == pytest.approx(3 + 2 * math.sqrt(14 / 3))
    assert detector.training_scores_ == [1.0, 2.0, 6.0]
    assert detector.score({"v": np.array([4.0])}) == 4.0


def test_too_few_cases_and_values_that_are_no_numbers_are_named():
    with pytest.raises(NotEnoughCasesError, match=r"1 training case\(s\): knn needs 2"):
        Detector("knn", "v", KNearest()).fit([{"v": np.zeros(2)}])
    detector = Detector("msp", "v", OwnValue()).fit([{"v": np.zeros(1)}])
    with pytest.raises(FeatureError, match="msp gives a score of nan"):
        detector.score({"v": np.array([np.nan])})


def blocks(values, labels, foreground=1.0):
    """Blocks of one layer with two features, of which the first is given."""
    table = np.zeros((len(values), 2, 2))
    table[:, 0, 0], table[:, 0, 1], table[:, 1, 0] = labels, foreground, values
    return table


class TestDeepNearestNeighbors:
    """Blocks near 0 have label 0 and those near 10 label 1."""

    def training(self, number=10):
        rng = np.random.default_rng(0)
        return [blocks([*rng.normal(0, 0.1, 4), *rng.normal(10, 0.1, 4)], [0] * 4 + [1] * 4) for _ in range(number)]

    def test_credibility_by_hand(self):
        rule = DeepNearestNeighbors(k=4).fit(self.training(), ["a"] * 10)
        # All calibration blocks have neighbors of their own label alone: nothing conforms worse than they do.
        assert rule.calibration_.tolist() == [0.0] * 16
        assert rule.score(blocks([0.0, 0.1], [0, 0])) == 0.0
        # Between both, neighbors of both labels: no calibration block conforms so badly for either.
        training = [blocks([0.0, 1.0, 9.0, 10.0], [0, 1, 0, 1]) for _ in range(10)]
        mixed = DeepNearestNeighbors(k=16).fit(training, ["a"] * 10)
        votes = mixed._nonconformity(blocks([0.4], [0])[:, 1:])
        assert votes.tolist() == [[8.0, 8.0]]

    def test_p_value_is_the_share_that_conforms_no_better(self):
        rule = DeepNearestNeighbors(k=4).fit(self.training(), ["a"] * 10)
        rule.calibration_ = np.array([0.0, 1.0, 2.0, 3.0])
        rule._nonconformity = lambda _blocks: np.array([[1.0, 4.0], [2.0, 4.0]])
        # Label 0 of both blocks: shares of at least 1 and at least 2 are 3/4 and 2/4.
        assert rule.score(blocks([0.0, 0.0], [0, 0])) == pytest.approx(1 - (0.75 + 0.5) / 2)

    def test_blocks_on_the_foreground_are_judged_first(self):
        rule = DeepNearestNeighbors(k=4, judged=1).fit(self.training(), ["a"] * 10)
        seen = []
        rule._nonconformity = lambda found: seen.append(found) or np.zeros((len(found), 2))
        rule.score(blocks([5.0, 7.0], [0, 1], foreground=np.array([0.0, 0.3])))
        assert seen[0][:, 0, 0].tolist() == [7.0]

    def test_data_sets_are_the_labels_where_there_are_several(self):
        training = [blocks([k % 2 * 10.0] * 4, [0] * 4) for k in range(10)]
        rule = DeepNearestNeighbors(k=4).fit(training, ["a", "b"] * 5)
        assert rule.classes_.tolist() == [0, 1]
        assert set(rule.labels_[rule.layers_[0]._fit_X[:, 0] == 10]) == {1}

    def test_one_label_is_refused(self):
        with pytest.raises(NotEnoughCasesError, match="DkNN needs two"):
            DeepNearestNeighbors().fit([blocks([0.0, 1.0], [0, 0])] * 5, ["a"] * 5)

    def test_held_out_cases_are_a_fifth(self):
        rule = DeepNearestNeighbors()
        scores = rule.held_out(self.training(), ["a"] * 10)
        assert len(scores) == 2
        assert rule.labels_.size == 8 * 8

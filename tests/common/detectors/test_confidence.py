"""The Soft Dice Confidence against the formula voxel by voxel, and what it tells where nothing is predicted."""

import math

import pytest
import torch

from common.detectors import confidence
from common.detectors.confidence import soft_dice_confidence
from common.errors import FeatureError


def slow_confidence(logits, sigmoid):
    """The formula, class by class and voxel by voxel."""
    dices, classes = [], range(0 if sigmoid else 1, len(logits))
    columns = logits.flatten(1).T.tolist()
    for number in classes:
        shared = probable = predicted = 0.0
        for column in columns:
            if sigmoid:
                probability, chosen = 1 / (1 + math.exp(-column[number])), column[number] > 0
            else:
                probability = math.exp(column[number]) / sum(map(math.exp, column))
                chosen = column[number] == max(column)
            shared, probable, predicted = shared + probability * chosen, probable + probability, predicted + chosen
        if predicted:
            dices.append(2 * shared / (probable + predicted))
    return sum(dices) / len(dices)


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 3, 4, 5)])
def test_confidence_is_that_of_the_formula_whatever_the_chunks(monkeypatch, sigmoid, shape):
    logits = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    logits[-1] -= 9.0  # Never predicted, so it does not count.
    for size in (confidence.CHUNK, 8):
        monkeypatch.setattr(confidence, "CHUNK", size)
        found = soft_dice_confidence(logits, sigmoid=sigmoid)
        assert (found.shape, found.dtype) == ((1,), torch.float64)
        assert float(found) == pytest.approx(slow_confidence(logits, sigmoid), rel=1e-6)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_surer_networks_are_more_confident_and_those_that_find_nothing_not_at_all(sigmoid):
    logits = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    rising = [float(soft_dice_confidence(factor * logits, sigmoid=sigmoid)) for factor in (0.1, 1.0, 10.0, 1000.0)]
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(1.0, abs=1e-3)
    nothing = torch.full((3, 6, 6), -5.0)
    nothing[0] = -5.0 if sigmoid else 5.0
    assert soft_dice_confidence(nothing, sigmoid=sigmoid).tolist() == [0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(value):
    logits = torch.zeros(2, 4, 4)
    logits[1, 2, 2] = value
    with pytest.raises(FeatureError, match="NaN or infinite values: how sure it is cannot be told"):
        soft_dice_confidence(logits)

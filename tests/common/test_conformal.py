"""P-values that keep their promise: tried by simulation, ties and patients with several cases included."""

import math
import re

import numpy as np
import pytest

from common.errors import BankError, ConfigError, NotEnoughCasesError
from common.runtime.conformal import RankedScores, check_rate


@pytest.mark.parametrize(("score", "above"), [(0.5, 4), (1.0, 4), (1.5, 3), (2.0, 3), (2.5, 1), (3.0, 1), (3.5, 0)])
def test_p_value_counts_scores_as_high_or_higher(score, above):
    assert RankedScores([2.0, 1.0, 3.0, 2.0]).p_value(score) == (1 + above) / 5


def test_cases_of_a_patient_share_the_weight_of_one():
    ranked = RankedScores([1.0, 2.0, 3.0, 5.0], [1 / 3, 1 / 3, 1 / 3, 1.0])
    assert ranked.patients == 2.0
    assert [ranked.p_value(score) for score in (0.0, 1.5, 5.0, 6.0)] == pytest.approx(
        [1, (2 + 2 / 3) / 3, 2 / 3, 1 / 3]
    )


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.2, 4.0), (0.39, 4.0), (0.4, 3.0), (0.6, 2.0), (0.8, 1.0), (0.99, 1.0)]
)
def test_threshold_is_the_quantile_of_the_rate(rate, expected):
    assert RankedScores([3.0, 1.0, 4.0, 2.0]).threshold(rate) == expected


@pytest.mark.parametrize("seed", range(20))
def test_score_is_above_the_threshold_just_where_its_p_value_is_within_the_rate(seed):
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, 12, 30)
    weights = [1 / (owners == owner).sum() for owner in owners]
    # Few values, so that there are ties.
    scores = (rng.integers(0, 9, 30) / 4).tolist()
    ranked = RankedScores(scores, weights)
    for rate in (0.1, 0.25, 0.3, 1 / 3, 0.5, 0.9, (1 + sum(weights[:3])) / (1 + ranked.patients)):
        for score in [*scores, -1.0, 0.1, 9.0, *np.nextafter(scores, 9.0).tolist()]:
            assert (score > ranked.threshold(rate)) == (ranked.p_value(score) <= rate)


def simulate(rng, patients, cases, rate, discrete):
    """Whether a new patient's case raises a false alarm; cases of one patient resemble each other."""
    owners = np.repeat(np.arange(patients + 1), cases)
    scores = rng.normal(size=patients + 1)[owners] + 0.3 * rng.normal(size=len(owners))
    scores = np.round(scores) if discrete else scores
    known = owners < patients
    ranked = RankedScores(scores[known].tolist(), [1 / cases] * int(known.sum()))
    return bool(rng.choice(scores[~known]) > ranked.threshold(rate))


@pytest.mark.parametrize(("patients", "cases"), [(9, 1), (19, 1), (39, 1), (19, 6)])
@pytest.mark.parametrize("rate", [0.1, 0.25])
def test_share_of_false_alarms_stays_within_the_rate(patients, cases, rate):
    rng, trials = np.random.default_rng(0), 1500
    alarms = sum(simulate(rng, patients, cases, rate, discrete=False) for _ in range(trials))
    # Four standard errors; with one case each and a whole number of ranks the rate is met exactly.
    error = 4 * math.sqrt(rate * (1 - rate) / trials)
    assert alarms / trials <= rate + error
    if cases == 1 and (patients + 1) * rate % 1 == 0:
        assert alarms / trials >= rate - error


def test_ties_lower_the_share_of_false_alarms():
    rng = np.random.default_rng(0)
    alarms = sum(simulate(rng, 19, 1, 0.25, discrete=True) for _ in range(1000))
    assert 0 < alarms / 1000 < 0.25


@pytest.mark.parametrize(
    ("rate", "patients", "error", "text"),
    [
        (0.0, 99, ConfigError, "false_alarm_rate is 0.0; accepted are numbers above 0 and below 1, or null"),
        (1.0, 99, ConfigError, "false_alarm_rate is 1.0"),
        (math.nan, 99, ConfigError, "false_alarm_rate is nan"),
        ("x", 99, ConfigError, "false_alarm_rate is 'x'"),
        (0.01, 98, NotEnoughCasesError, "false_alarm_rate is 0.01, but no p-value from 98 calibration patient(s) is"),
    ],
)
def test_rate_that_cannot_be_promised_is_refused_in_a_line(rate, patients, error, text):
    with pytest.raises(error, match=re.escape(text)) as caught:
        check_rate(rate, patients)
    assert "\n" not in str(caught.value)


def test_lowest_rate_that_can_be_promised_is_accepted():
    check_rate(0.01, 99)
    assert RankedScores(list(range(99))).threshold(0.01) == 98.0


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, 2.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(BankError, match=r"2 calibration score\(s\) with \d weight\(s\) in \]0, 1\] give no p-value"):
        RankedScores([1.0, 2.0], weights)


def test_no_scores_give_no_p_value():
    with pytest.raises(BankError, match=r"0 calibration score\(s\)"):
        RankedScores([])

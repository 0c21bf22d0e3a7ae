"""Banks whose p-values come from cases that trained no weights."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from common.errors import BankError, BankMismatchError, NotEnoughCasesError
from common.spectral import HeldOut, SignatureBank
from tests.common.banks import LINE, assert_same_bank, unit_rows

FURTHER = [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]]


def test_scores_are_distances_to_the_training_signatures():
    bank = SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER))
    assert_array_equal(bank.held_out.scores, [1.0, 2.0, 4.0])
    assert [bank.p_value(oodm) for oodm in (0.5, 1.0, 3.0, 5.0)] == [1.0, 1.0, 0.5, 0.25]


def test_without_held_out_cases_p_values_come_from_the_training_cases_left_out():
    bank = SignatureBank.fit(LINE)
    # Leave-one-out distances 1, 1, 2.
    assert [bank.p_value(oodm) for oodm in (1.0, 1.5, 2.0, 2.5)] == [1.0, 0.5, 0.5, 0.25]


def test_rate_sets_the_threshold_and_null_leaves_that_of_the_paper():
    held_out = HeldOut.of(FURTHER)
    assert SignatureBank.fit(LINE, held_out=held_out).threshold == SignatureBank.fit(LINE).threshold
    bank = SignatureBank.fit(LINE, held_out=held_out, false_alarm_rate=0.5)
    assert bank.threshold == 2.0
    assert [bank.is_ood(np.array([0.0, y])) for y in (2.0, 2.1)] == [False, True]
    assert SignatureBank.fit(LINE, false_alarm_rate=0.25).threshold == 2.0


def test_rate_that_too_few_patients_could_keep_is_refused():
    with pytest.raises(NotEnoughCasesError, match=r"false_alarm_rate is 0\.2, but no p-value from 3 calibration"):
        SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER), false_alarm_rate=0.2)
    with pytest.raises(NotEnoughCasesError, match=r"from 2 calibration patient\(s\) is below 0\.333"):
        SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER, ["a", "b", "a"]), false_alarm_rate=0.25)


def test_copies_of_training_cases_and_duplicates_do_not_calibrate():
    held_out = HeldOut.of([*FURTHER, LINE[0], FURTHER[1]])
    assert_same_bank(SignatureBank.fit(LINE, held_out=held_out), SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER)))
    alone = SignatureBank.fit(LINE, held_out=HeldOut.of(LINE))
    assert_same_bank(alone, SignatureBank.fit(LINE))


def test_order_of_held_out_cases_does_not_matter():
    owners = ["a", "a", "b"]
    first = SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER, owners))
    second = SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER[::-1], owners[::-1]))
    assert_same_bank(first, second)
    assert_allclose(first.held_out.weights, [0.5, 0.5, 1.0])


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis"])
def test_merged_banks_calibrate_anew_on_the_held_out_cases_of_all(distance):
    rows, further = unit_rows(9), unit_rows(6, seed=5)
    settings = {"distance": distance, "false_alarm_rate": 0.25}
    banks = [
        SignatureBank.fit(rows[:5], held_out=HeldOut.of(further[:3]), **settings),
        SignatureBank.fit(rows[5:], held_out=HeldOut.of(further[2:]), **settings),
    ]
    whole = SignatureBank.fit(rows, held_out=HeldOut.of(further), **settings)
    assert_same_bank(SignatureBank.merge(banks), whole)
    assert_same_bank(SignatureBank.merge(reversed(banks)), whole)


def test_bank_without_held_out_cases_adds_none():
    first = SignatureBank.fit(LINE, held_out=HeldOut.of(FURTHER))
    second = SignatureBank.fit([[9.0, 0.0], [8.0, 0.0]])
    assert_array_equal(SignatureBank.merge([first, second]).held_out.signatures, FURTHER)


def test_banks_of_other_rates_are_not_merged():
    banks = [SignatureBank.fit(LINE, false_alarm_rate=rate) for rate in (0.5, None)]
    with pytest.raises(BankMismatchError, match=r"false_alarm_rate 0\.5 and None cannot be merged"):
        SignatureBank.merge(banks)


@pytest.mark.parametrize(
    ("rows", "text"), [([[np.nan, 0.0]], "held-out signature holds NaN"), ([[1.0, 2.0, 3.0]], r"shape \(1, 3\)")]
)
def test_held_out_signatures_that_are_none_are_refused(rows, text):
    with pytest.raises(BankError, match=text):
        SignatureBank.fit(LINE, held_out=HeldOut.of(rows))

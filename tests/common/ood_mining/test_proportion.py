import math
from fractions import Fraction
from itertools import pairwise

import pytest

from common.errors import ConfigError
from common.ood_mining import (
    draw_selection,
    estimate_ood_fraction,
    exact_ood_fraction,
    positive_negative_ratio,
    select_candidates,
)
from common.ood_mining.proportion import fraction_grid
from common.ood_mining.selection import check_selection, num_available

PAPER = (11216, 11599, 9684)
COUNTS = pytest.mark.parametrize(
    "counts", [PAPER, (10, 10, 30), (5, 100, 40), (100, 5, 3), (7, 9, 2), (1, 1, 1), (650, 900, 1000), (13, 20, 0)]
)


@pytest.mark.parametrize(("share", "ratio"), [(0.0, 0.967), (1.0, 0.527), (0.6, 0.644), (0.4, 0.725)])
def test_ratio_of_the_paper(share, ratio):
    positive, negative, ood = PAPER
    assert positive_negative_ratio(positive, negative, round(share * ood)) == pytest.approx(ratio, abs=5e-4)


def test_fractions_of_the_paper():
    assert estimate_ood_fraction(*PAPER) == 0.6
    assert exact_ood_fraction(*PAPER) == pytest.approx(0.584, abs=5e-4)


def test_ratio_without_negative_patches_is_infinite():
    assert positive_negative_ratio(3, 0) == math.inf
    assert positive_negative_ratio(3, 0, 2) == 1.5


def slow_estimate(positive, negative, ood, target, step):
    """Every fraction of the grid in exact arithmetic; the first of equally good ones."""
    best = None
    for index in range(int(1 / step) + 1):
        fraction = index * step
        total = negative + fraction * ood
        distance = abs(positive / total - target) if total else math.inf
        if best is None or distance < best[0]:
            best = (distance, fraction)
    return float(best[1])


@COUNTS
@pytest.mark.parametrize("step", [Fraction(1, 10), Fraction(1, 4), Fraction(1, 20)])
@pytest.mark.parametrize("target", [Fraction(65, 100), Fraction(1, 2), Fraction(5)])
def test_estimate_agrees_with_exact_arithmetic(counts, step, target):
    found = estimate_ood_fraction(*counts, target=float(target), step=float(step))
    assert found == slow_estimate(*counts, target, step)


def test_ties_go_to_the_smaller_fraction():
    # 12 / 15 = 0.8 and 12 / 20 = 0.6 are equally far from 0.7.
    assert estimate_ood_fraction(12, 15, 5, target=0.7, step=1) == 0
    assert estimate_ood_fraction(0, 15, 5) == 0, "without positive patches all are equally bad"


@COUNTS
def test_exact_fraction_reaches_the_target_where_it_can(counts):
    positive, negative, ood = counts
    fraction = exact_ood_fraction(*counts)
    ratio = positive_negative_ratio(positive, negative, fraction * ood)
    if 0 < fraction < 1:
        assert ratio == pytest.approx(0.65)
    elif ood:
        assert (fraction == 0) == (ratio <= 0.65)


def test_no_ood_patch_gives_fraction_zero():
    assert estimate_ood_fraction(5, 5, 0) == exact_ood_fraction(5, 5, 0) == 0


@pytest.mark.parametrize("step", [0.1, 0.25, 0.3, 1, 0.07])
def test_grid_rises_from_zero_to_one(step):
    grid = fraction_grid(step)
    assert grid[0] == 0
    assert grid[-1] == 1
    assert all(first < second <= first + step + 1e-9 for first, second in pairwise(grid))


def test_grid_of_the_paper_has_eleven_short_numbers():
    assert fraction_grid() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: positive_negative_ratio(-1, 2), "accepted are counts of at least 0"),
        (lambda: exact_ood_fraction(1, -2, 3), "accepted are counts of at least 0"),
        (lambda: estimate_ood_fraction(1, 2, 3, step=0), "fraction_step is 0; accepted is 0 < fraction_step <= 1"),
        (lambda: estimate_ood_fraction(1, 2, 3, target=0), "target_ratio is 0; accepted are positive numbers"),
        (lambda: draw_selection(3, 1.5, seed=0), "ood_fraction is 1.5; accepted is 0 to 1"),
    ],
)
def test_wrong_numbers_are_named(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


@pytest.mark.parametrize("fraction", [0, 0.1, 0.33, 0.5, 1])
def test_selection_has_its_size_and_no_patch_twice(fraction):
    drawn = draw_selection(37, fraction, seed=4)
    assert len(drawn) == len(set(drawn)) == round(37 * fraction)
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(range(37))


def test_selection_follows_its_seed_and_grows_with_its_fraction():
    assert draw_selection(50, 0.4, seed=1) == draw_selection(50, 0.4, seed=1)
    assert draw_selection(50, 0.4, seed=1) != draw_selection(50, 0.4, seed=2)
    assert set(draw_selection(50, 0.4, seed=1)) < set(draw_selection(50, 0.7, seed=1))


def test_selection_draws_every_patch_alike():
    counts = [0] * 10
    for seed in range(2000):
        for number in draw_selection(10, 0.3, seed=seed):
            counts[number] += 1
    # 600 each; five standard deviations of a binomial are 103.
    assert all(abs(count - 600) < 103 for count in counts)


SCORES = [0.0, 0.3, 0.0, 0.1, 0.9, 0.0, 0.3, 0.0, 0.0, 0.0]


class TestSelection:
    def test_paper_draws_among_those_that_confuse(self):
        assert select_candidates(SCORES, 1.0) == [1, 3, 4, 6]
        drawn = [select_candidates(SCORES, 0.5, seed=seed) for seed in range(20)]
        assert all(len(found) == 2 and set(found) < {1, 3, 4, 6} for found in drawn)
        assert len({tuple(found) for found in drawn}) > 2
        assert drawn[3] == [[1, 3, 4, 6][number] for number in draw_selection(4, 0.5, seed=3)]

    def test_top_are_the_most_confusing(self):
        assert select_candidates(SCORES, 0.5, selection="top") == [1, 4]
        assert select_candidates(SCORES, 0.75, selection="top") == [1, 4, 6]

    def test_as_many_are_drawn_among_all(self):
        drawn = [select_candidates(SCORES, 0.5, selection="as_many", seed=seed) for seed in range(40)]
        assert {len(found) for found in drawn} == {2}
        assert set().union(*drawn) == set(range(10))

    def test_all_take_their_share_of_everything(self):
        assert select_candidates(SCORES, 1.0, selection="all") == list(range(10))
        assert len(select_candidates(SCORES, 0.5, selection="all")) == 5
        assert (num_available(SCORES), num_available(SCORES, "all")) == (4, 10)

    @pytest.mark.parametrize("selection", ["pruned", "top", "as_many", "all"])
    def test_nothing_is_chosen_from_nothing(self, selection):
        assert select_candidates([], 1.0, selection=selection) == []
        assert select_candidates(SCORES, 0.0, selection=selection) == []

    def test_wrong_names_are_refused(self):
        with pytest.raises(ConfigError, match="selection is 'best'; accepted are pruned, top, as_many, all"):
            select_candidates(SCORES, 0.5, selection="best")
        for kinds in ([], ["original"]):
            with pytest.raises(ConfigError, match=r"candidate_kinds is .*; accepted are lists of emptied and candid"):
                check_selection("top", kinds)

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from common import sampling
from common.errors import ConfigError, LabelError
from common.sampling import ShardSampler, TaskSampler, samples_of_epoch, task_probabilities, validation_loader

CASES = [{"task": "small"}] * 4 + [{"task": "large"}] * 16 + [{}]


def test_check_values_of_the_paper():
    assert_close(task_probabilities([10, 100]), torch.tensor([0.2403, 0.7597], dtype=torch.float64), rtol=0, atol=5e-5)


@pytest.mark.parametrize("sizes", [[7], [5, 5], [1, 4, 9]])
def test_probabilities_are_proportional_to_the_square_root(sizes):
    total = sum(size**0.5 for size in sizes)
    expected = torch.tensor([size**0.5 / total for size in sizes], dtype=torch.float64)
    assert_close(task_probabilities(sizes), expected)


@pytest.mark.parametrize("sizes", [[], [3, 0], [-1]])
def test_empty_data_sets_are_refused(sizes):
    with pytest.raises(ConfigError, match="must be positive, one for each data set"):
        task_probabilities(sizes)


@pytest.mark.parametrize(
    ("uniform", "shares"),
    [(False, [2 / 7 / 4] * 4 + [4 / 7 / 16] * 16 + [1 / 7]), (True, [1 / 21] * 21)],
)
def test_frequencies_follow_the_probabilities(uniform, shares):
    counts = Counter(TaskSampler(CASES, seed=3, samples_per_epoch=20_000, uniform_sampling=uniform))
    observed = [counts[index] for index in range(len(CASES))]
    assert chisquare(observed, [20_000 * share for share in shares]).pvalue > 1e-3


def test_seed_and_epoch_decide_the_draw():
    def draw(seed, epoch):
        sampler = TaskSampler(CASES, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, 5) == draw(1, 5)
    assert len({tuple(draw(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(0)
    first, state = list(TaskSampler(CASES)), torch.get_rng_state()
    torch.manual_seed(1)
    assert list(TaskSampler(CASES)) == first
    torch.manual_seed(0)
    assert_close(torch.get_rng_state(), state)


def test_epoch_has_as_many_images_as_there_are_cases_by_default():
    assert len(TaskSampler(CASES)) == len(list(TaskSampler(CASES))) == len(CASES)


@pytest.mark.parametrize(("size", "number"), [(2, 10), (3, 10), (4, 21)])
def test_ranks_share_one_draw(ranks, size, number):
    padded = -(-number // size) * size
    whole = list(TaskSampler(CASES, seed=4, samples_per_epoch=padded))
    parts = []
    for rank in range(size):
        ranks(sampling, rank, size)
        parts.append(list(TaskSampler(CASES, seed=4, samples_per_epoch=number)))
    assert all(len(part) == padded // size for part in parts)
    assert [index for group in zip(*parts, strict=True) for index in group] == whole


@pytest.mark.parametrize(("number", "size"), [(7, 1), (7, 3), (3, 3)])
def test_shards_hold_every_case_once(ranks, number, size):
    shards = []
    for rank in range(size):
        ranks(sampling, rank, size)
        sampler = ShardSampler(range(number))
        shards.append(list(sampler))
        assert len(sampler) == len(shards[-1])
        assert shards[-1] == sorted(shards[-1])
    assert sorted(index for shard in shards for index in shard) == list(range(number))


def test_every_rank_validates_on_all_of_a_set_smaller_than_the_ranks(ranks):
    ranks(sampling, 2, 4)
    assert list(ShardSampler(range(3))) == [0, 1, 2]


@pytest.mark.parametrize(("iterations", "epochs", "expected"), [(900, 10, 360), (10, 4, 12), (1, 1, 4)])
def test_steps_are_shared_out_to_epochs(iterations, epochs, expected):
    assert samples_of_epoch(None, iterations, max_epochs=epochs, batch_size=4) == expected


def test_epochs_have_their_own_length_without_steps():
    assert samples_of_epoch(None, None, max_epochs=3, batch_size=4) is None
    assert samples_of_epoch(7, None, max_epochs=3, batch_size=4) == 7


@pytest.mark.parametrize("arguments", [(7, 5), (None, 0)])
def test_steps_and_samples_of_an_epoch_exclude_each_other(arguments):
    with pytest.raises(ConfigError, match=r"iterations is .* samples_per_epoch"):
        samples_of_epoch(*arguments, max_epochs=3, batch_size=4)


def test_errors_name_the_options_of_the_part_of_a_training():
    names = ("pretrain_iterations", "pretrain_epochs")
    with pytest.raises(ConfigError, match=r"^pretrain_iterations is 5, samples_per_epoch 7 and pretrain_epochs 3;"):
        samples_of_epoch(7, 5, max_epochs=3, batch_size=4, names=names)


@pytest.mark.parametrize(("most", "expected"), [(None, list(range(7))), (3, [0, 2, 4]), (9, list(range(7)))])
def test_validation_takes_cases_evenly(most, expected):
    assert [int(case) for case in validation_loader(range(7), val_cases=most)] == expected


@pytest.mark.parametrize(
    ("foreground", "most", "expected"),
    # Ten cases; the last row would be measured on no foreground at all, were they only spread evenly.
    [(range(10), 3, [0, 3, 6]), ([4, 5, 6, 7, 8], 4, [0, 2, 4, 6]), ([9], 3, [2, 5, 9])],
)
def test_validation_of_a_few_cases_has_foreground_among_them(foreground, most, expected):
    cases = [{"case": place, "label": torch.full((1, 2), float(place in foreground))} for place in range(10)]
    assert [int(case["case"]) for case in validation_loader(cases, val_cases=most)] == expected


@pytest.mark.parametrize("most", [None, 2])
def test_validation_without_any_foreground_is_refused_before_the_training(most):
    cases = [{"label": torch.zeros(1, 2)} for _ in range(3)]
    with pytest.raises(LabelError, match=r"all 3 validation case.* hold no foreground.* val_fraction"):
        validation_loader(cases, val_cases=most)


def test_validation_needs_a_case():
    with pytest.raises(ConfigError, match="val_cases is 0; accepted"):
        validation_loader(range(7), val_cases=0)

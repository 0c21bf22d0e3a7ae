"""Rivals of Double-Mix: formulas against slow references, steps on tiny networks, resumed as uninterrupted."""

from copy import deepcopy

import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.testing import assert_close

from common.double_mix import CoTrainedPair, SingleStudent, WeightedSegmentationLoss, make_step
from common.double_mix.features import FeatureTap
from common.double_mix.methods import RIVALS
from common.double_mix.rivals.cld import ClassConfidences, sampling_rates
from common.double_mix.rivals.distribution import LabeledCounts, PredictedShares, align, debias, rebalancing_rates
from common.double_mix.rivals.dst import reverse_gradient, wrong_cross_entropy
from common.double_mix.rivals.prototypes import Prototypes, prototype_contrast, sample_voxels
from common.double_mix.rivals.ssnet import soft_dice_distance, unit
from common.double_mix.rivals.unimatch import cut_mix
from common.errors import ConfigError
from common.networks.averaging import EMANetwork
from tests.common.cotrained import CLASSES, make_batch, make_trainer, tiny_network

SETTINGS = {
    "bcp": {"pretrain_share": 0.25},
    "ss_net": {"confidence": 0.3, "samples": 4},
    "unimatch": {"confidence": 0.3},
    "fixmatch": {"confidence": 0.3},
    "dst": {"confidence": 0.3},
    "depl": {"confidence": 0.3, "momentum": 0.5},
    "crest": {"confidence": 0.3, "momentum": 0.5},
    "cld": {"momentum": 0.5},
}
"""Of an untrained network no probability reaches 0.95."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, *, students=None, seed=0, **settings):
    torch.manual_seed(seed)
    number = students or (2 if name == "cld" else 1)
    network = (CoTrainedPair if number == 2 else SingleStudent)(tiny_network).train()
    step = make_step(
        network, WeightedSegmentationLoss(), num_classes=CLASSES, feature_layers=["network_a.2"], in_channels=1,
        roi_size=[8, 6], rival={"name": name} | SETTINGS[name] | settings, ema=EMANetwork(network),
        generator=seeded(5),
    )  # fmt: skip
    return network, step


def losses(network, step, batch=None, share=1.0):
    batch = batch or make_batch()
    return step.losses(network, batch["image"], batch["label"], batch["unlabeled"], share=share)


@pytest.mark.parametrize(
    ("name", "students"), [(name, number) for name in RIVALS for number in (1, 2) if (name, number) != ("cld", 1)]
)
def test_every_rival_trains_every_network(name, students):
    network, step = make(name, students=students)
    before = deepcopy(network.state_dict())
    trainer = make_trainer(network, step, [make_batch(seed) for seed in range(4)], epochs=2)
    trainer.run()
    output = trainer.state.output
    assert set(output) == {"loss", *step.terms}
    assert all(value.isfinite() for value in output.values())
    assert all(output[term] > 0 for term in step.terms)
    assert_close(output["loss"], sum(output[term] for term in step.terms))
    for member in list(network.children()):
        name_of = next(key for key, value in network.named_children() if value is member)
        assert not torch.equal(member[0].weight, before[f"{name_of}.0.weight"])


@pytest.mark.parametrize("name", RIVALS)
def test_resumed_training_ends_as_an_uninterrupted_one(name):
    """What a step remembers is in its members: with these, another step goes on as the first would."""
    batches = [make_batch(seed) for seed in range(4)]

    def states(network, optimizer, step):
        members = {"network": network, "optimizer": optimizer, **step.members}
        return {key: deepcopy(member.state_dict()) for key, member in members.items()}

    def start(parts, seed):
        network, step = make(name, seed=seed, **({"pretrain_share": 0.0} if name == "bcp" else {}))
        trainer = make_trainer(network, step, parts)
        return network, step, trainer

    network, step, trainer = start(batches[:2], 0)
    trainer.run()
    middle, drawn = states(network, trainer.optimizer, step), step.generator.get_state()
    other, again, resumed = start(batches[2:], 1)
    for key, member in {"network": other, "optimizer": resumed.optimizer, **again.members}.items():
        member.load_state_dict(middle[key])
    again.generator.set_state(drawn)
    whole = make_trainer(network, step, batches[2:])
    whole.optimizer.load_state_dict(trainer.optimizer.state_dict())
    # Shares of the training are those of this stretch in both.
    whole.run()
    resumed.run()
    assert_close(states(other, resumed.optimizer, again), states(network, whole.optimizer, step), rtol=0, atol=0)


def test_settings_of_base_classes_are_accepted_and_others_refused():
    assert make("depl", strength=0.25)[1].strength == 0.25
    with pytest.raises(
        ConfigError, match=r"^rival has 'tap', which unimatch does not take; it takes \['box_share', 'dropout'"
    ):
        make("unimatch", tap=None)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("fixmatch", "confidence", 1.5), ("fixmatch", "pseudo_weight", -1), ("depl", "debiasing", -1),
        ("depl", "momentum", 2), ("crest", "exponent", -1), ("crest", "least_temperature", 2),
        ("unimatch", "dropout", 1.0), ("unimatch", "box_share", 0), ("cld", "weight_exponent", -1),
        ("cld", "sampling_exponent", -1), ("ss_net", "magnitude", 0), ("ss_net", "separation_weight", -1),
        ("dst", "worst_weight", -1),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name, setting, value):
    with pytest.raises(ConfigError, match=f"^{setting} is {value}; accepted"):
        make(name, **{setting: value})


def test_two_networks_are_needed_where_each_teaches_the_other():
    with pytest.raises(ConfigError, match="network has one student, but CLD needs two"):
        make("cld", students=1)


class TestFeatures:
    def test_maps_are_those_of_the_layer_for_every_student(self):
        network, _ = make("cld")
        tap, image = FeatureTap(network, "network_a.2"), torch.randn(2, 1, 8, 6, generator=seeded())
        assert tap.channels(network, (1, 1, 8, 6)) == 4
        with tap.watch() as maps:
            logits = network(image)
        assert_close([member[3](item) for member, item in zip(network.children(), maps, strict=True)], list(logits))
        with pytest.raises(ConfigError, match="feature_layers names 'nowhere'"):
            FeatureTap(network, "nowhere")

    def test_dropped_channels_are_zero_and_others_doubled(self):
        network, _ = make("fixmatch")
        network.network_a[3] = nn.Identity()
        tap, image = FeatureTap(network, "network_a.2"), torch.randn(50, 1, 8, 6, generator=seeded())
        plain = network(image)[0]
        with tap.drop(0.5, generator=seeded(1)):
            dropped = network(image)[0]
        ratio = dropped.flatten(2).sum(2) / plain.flatten(2).sum(2)
        assert set(ratio.round(decimals=4).flatten().tolist()) == {0.0, 2.0}
        assert 0.35 < (ratio == 0).float().mean() < 0.65
        assert torch.equal(network(image)[0], plain), "afterwards nothing is dropped"


class TestDistributions:
    def test_shares_are_an_average_and_counts_a_sum(self):
        shares, counts = PredictedShares(3, momentum=0.75), LabeledCounts(3)
        probability = torch.rand(2, 3, 4, 5, generator=seeded()).softmax(1)
        mean = probability.movedim(1, -1).reshape(-1, 3).mean(0)
        assert_close(shares.update(probability), 0.75 / 3 + 0.25 * mean)
        label = torch.tensor([0, 0, 1, 0]).reshape(1, 1, 2, 2)
        counts.update(label)
        assert counts.update(label).tolist() == [6, 2, 1], "a class without voxels counts as one"
        assert counts.counts.tolist() == [6, 2, 0]

    def test_logits_are_adjusted_by_the_logarithm_of_the_shares(self):
        logits, shares = torch.randn(1, 3, 2, 2, generator=seeded()), torch.tensor([0.7, 0.2, 0.1])
        adjusted = debias(logits, shares, 0.5)
        for c in range(3):
            assert_close(adjusted[:, c], logits[:, c] - 0.5 * shares[c].log())
        # With a strength of 1, the softmax is the posterior over the prior.
        assert_close(debias(logits, shares, 1.0).softmax(1), align(logits.softmax(1), shares, shares, 0.0))

    def test_aligned_probabilities_follow_the_definition(self):
        p, predicted = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.8, 0.1, 0.1])
        labeled, t = torch.tensor([0.5, 0.25, 0.25]), 0.5
        target = labeled**t / (labeled**t).sum()
        expected = p * target / predicted / (p * target / predicted).sum()
        assert_close(align(p.reshape(1, 3, 1, 1), predicted, labeled, t).flatten(), expected)

    @pytest.mark.parametrize("counts", [[1000.0, 10, 100, 1], [5.0, 5, 5], [1.0, 2]])
    def test_rates_follow_the_definition(self, counts):
        order = sorted(range(len(counts)), key=lambda c: -counts[c])
        expected = [0.0] * len(counts)
        for place, c in enumerate(order):
            expected[c] = (counts[order[len(order) - 1 - place]] / counts[order[0]]) ** 0.5
        assert rebalancing_rates(torch.tensor(counts), 0.5).tolist() == pytest.approx(expected)


class TestDePL:
    def test_pseudo_labels_and_margin_are_those_of_the_average_prediction(self):
        _, step = make("depl", debiasing=2.0, confidence=0.0)
        step.predicted[0].shares.copy_(torch.tensor([0.98, 0.01, 0.01]))
        logits = torch.randn(1, 3, 8, 6, generator=seeded())
        pseudo, region = step.guess(logits, 0, 1.0)
        assert torch.equal(
            pseudo, (logits - 2 * torch.tensor([0.98, 0.01, 0.01]).log()[:, None, None]).argmax(1, keepdim=True)
        )
        assert region.all()
        assert (pseudo > 0).float().mean() > (logits.argmax(1) > 0).float().mean()
        mean = logits.softmax(1).mean([0, 2, 3])
        assert_close(step.shares(0), torch.tensor([0.98, 0.01, 0.01]).lerp(mean, 0.5))
        assert_close(step.adjust(logits, 0), logits + 2 * step.shares(0).log()[:, None, None])


class TestCReST:
    def test_voxels_are_kept_at_the_rate_of_their_class(self):
        _, step = make("crest", confidence=0.0, exponent=0.5)
        step.labeled.counts.copy_(torch.tensor([10000.0, 400, 100]))
        # The counts also align: equal predictions and shares to the power of 0.5.
        logits = torch.zeros(1, 3, 60, 60)
        logits.scatter_(1, torch.randint(0, 3, (1, 1, 60, 60), generator=seeded()), 50.0)
        pseudo, kept = step.guess(logits, 0, 1.0)
        rates = rebalancing_rates(torch.tensor([10000.0, 400, 100]), 0.5)
        for c in range(3):
            total, taken = int((pseudo == c).sum()), int((kept & (pseudo == c)).sum())
            if rates[c] == 1:
                assert taken == total
            else:
                expected = [float(rates[c]) * total, (1 - float(rates[c])) * total]
                assert chisquare([taken, total - taken], expected).pvalue > 1e-3


class TestFixMatch:
    def test_only_confident_voxels_count(self):
        _, step = make("fixmatch", confidence=0.9)
        logits = torch.tensor([[5.0, 0, 0], [1.0, 0.9, 0]]).T.reshape(1, 3, 2, 1)
        pseudo, region = step.guess(logits, 0, 1.0)
        assert pseudo.flatten().tolist() == [0, 0]
        assert region.flatten().tolist() == [True, False]

    def test_views_cost_the_mean_over_all_voxels(self):
        logits = torch.randn(1, 3, 2, 2, generator=seeded())
        pseudo, region = torch.tensor([[[[0, 1], [2, 2]]]]), torch.tensor([[[[1, 0], [0, 1]]]]).bool()
        log = -logits.log_softmax(1)
        expected = (log[0, 0, 0, 0] + log[0, 2, 1, 1]) / 4
        assert_close(make("fixmatch")[1].compare(logits, pseudo, region), expected)
        assert_close(make("crest")[1].compare(logits, pseudo, region), 2 * expected)

    def test_box_of_the_next_image_is_pasted(self):
        items = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
        box = torch.tensor([[[[1, 0], [0, 0]]]], dtype=torch.bool).expand(3, 1, 2, 2)
        assert cut_mix(items, box)[:, 0].tolist() == [[[1, 0], [0, 0]], [[2, 1], [1, 1]], [[0, 2], [2, 2]]]


class TestCLD:
    def test_confidence_is_averaged_for_the_classes_that_are_shown(self):
        confidences = ClassConfidences(3, 0.75)
        probability = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]).T.reshape(1, 3, 2, 1)
        assert_close(
            confidences.update(probability, torch.tensor([0, 1]).reshape(1, 1, 2, 1)),
            torch.tensor([0.7, 0.4, 0.0], dtype=torch.float64),
        )
        moved = confidences.update(probability, torch.tensor([0, 0]).reshape(1, 1, 2, 1))
        assert_close(moved, torch.tensor([0.75 * 0.7 + 0.25 * 0.6, 0.4, 0.0], dtype=torch.float64))

    def test_unsure_classes_are_sampled_more(self):
        assert sampling_rates(torch.tensor([0.9, 0.6, 0.6]), 0.5).tolist() == pytest.approx([0.5, 1.0, 1.0])
        assert sampling_rates(torch.ones(2), 0.5).tolist() == [0.0, 0.0]


class TestSSNet:
    def test_distance_equals_a_loop_over_classes(self):
        first, second = (torch.rand(2, 3, 4, 5, generator=seeded(seed)).softmax(1) for seed in (0, 1))
        expected = sum(
            1 - 2 * (first[:, c] * second[:, c]).sum() / (first[:, c] ** 2 + second[:, c] ** 2).sum() for c in range(3)
        )
        assert_close(soft_dice_distance(first, second), expected / 3, atol=1e-5, rtol=1e-4)
        assert soft_dice_distance(first, first) < 1e-6

    def test_noise_has_its_norm_and_changes_more_than_noise_at_random(self):
        network, step = make("ss_net", magnitude=2.0)
        images = torch.randn(3, 1, 8, 6, generator=seeded())
        outputs = network.eval().each(images)
        network.training = True
        noise = step._adversarial_noise(network, images, outputs)
        assert_close(noise.flatten(1).norm(dim=1), torch.full((3,), 2.0))
        adversarial = step._distance(network.each(images + noise), outputs)
        drawn = [2 * unit(torch.randn(images.shape, generator=seeded(seed))) for seed in range(5)]
        assert adversarial > max(step._distance(network.each(images + item), outputs) for item in drawn)

    def test_prototypes_are_means_of_the_voxels_that_count(self):
        prototypes = Prototypes(3, 2, momentum=0.5)
        features, label = (
            torch.randn(2, 2, 3, 3, generator=seeded()),
            torch.randint(0, 2, (2, 1, 3, 3), generator=seeded(1)),
        )
        counted = torch.rand(2, 1, 3, 3, generator=seeded(2)) < 0.6
        rows = features.movedim(1, -1)
        expected = torch.stack([rows[((label == c) & counted)[:, 0]].mean(0) for c in range(2)])
        prototypes.update(features, label, counted)
        assert_close(prototypes.centers[:2], expected)
        assert prototypes.seen.tolist() == [True, True, False]
        prototypes.update(features * 3, label, counted)
        assert_close(prototypes.centers[:2], 2 * expected)

    def test_contrast_equals_a_loop_over_voxels(self):
        features, centers = torch.randn(6, 4, generator=seeded()), torch.randn(3, 4, generator=seeded(1))
        classes, valid = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([1, 1, 1, 0, 1, 1], dtype=torch.bool)
        seen = torch.tensor([True, True, False])
        losses_of = []
        for feature, c, counts in zip(features, classes.tolist(), valid.tolist(), strict=True):
            if counts and seen[c]:
                cosines = [torch.cosine_similarity(feature, centers[k], dim=0) / 0.1 for k in (0, 1)]
                losses_of.append(torch.logsumexp(torch.stack(cosines), 0) - cosines[c])
        found = prototype_contrast(features, classes, centers, seen, valid, 0.1)
        assert_close(found, torch.stack(losses_of).mean())

    def test_every_class_gives_as_many_voxels(self):
        label = torch.tensor([0] * 20 + [1] * 3 + [2] * 2).reshape(1, 1, 5, 5)
        counted = torch.ones_like(label, dtype=torch.bool)
        counted[0, 0, 4, 4] = False
        places, classes, valid = sample_voxels(label, counted, 4, 5, generator=seeded())
        assert torch.bincount(classes).tolist() == [5, 5, 5, 5]
        assert torch.bincount(classes[valid], minlength=4).tolist() == [5, 3, 1, 0]
        assert torch.equal(label.flatten()[places[valid]], classes[valid])
        assert len(set(places[valid].tolist())) == 9


class TestDST:
    def test_gradients_come_back_reversed(self):
        values = torch.randn(3, generator=seeded(), requires_grad=True)
        (reverse_gradient(values) * torch.tensor([1.0, 2, 3])).sum().backward()
        assert values.grad.tolist() == [-1, -2, -3]

    def test_worst_head_is_rewarded_for_being_wrong(self):
        logits = torch.tensor([[2.0, 0, 0], [0.0, 2, 0], [0.0, 0, 9]]).T.reshape(1, 3, 3, 1)
        target, region = torch.zeros(1, 1, 3, 1, dtype=torch.long), torch.tensor([1, 1, 0]).reshape(1, 1, 3, 1).bool()
        p = logits.softmax(1)[0, 0, :2, 0]
        assert_close(wrong_cross_entropy(logits, target, region), -(1 - p).log().mean())

    def test_heads_are_trained_at_the_rate_of_the_network_and_not_saved_with_it(self):
        network, step = make("dst")
        before = deepcopy(step.heads.state_dict())
        trainer = make_trainer(network, step, [make_batch()])
        trainer.run()
        assert all(not torch.equal(value, before[name]) for name, value in step.heads.state_dict().items())
        assert step.optimizer.param_groups[0]["lr"] == trainer.optimizer.param_groups[0]["lr"] == 0.1
        assert not any("heads" in name for name in network.state_dict())

    def test_networks_own_head_learns_nothing_from_unlabeled_images(self):
        network, step = make("dst")
        terms = losses(network, step)
        head = network.network_a[3].weight
        assert (
            torch.autograd.grad(terms["unsupervised"] + terms["worst"], head, allow_unused=True, retain_graph=True)[0]
            is None
        )
        first = network.network_a[0].weight
        assert torch.autograd.grad(terms["unsupervised"], first)[0].any()

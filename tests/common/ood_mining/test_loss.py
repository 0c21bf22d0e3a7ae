import pytest
import torch
from torch.testing import assert_close

from common.errors import ConfigError
from common.ood_mining import CombinedDiceLoss, prepare_patches

SHAPES = pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)], ids=["2d", "3d"])
REDUCTIONS = pytest.mark.parametrize("reduction", ["pooled", "per_class"])
CLASSES = 4


def batch(spatial, number=5, ood=(1, 3), seed=0):
    """Logits, labels (empty where a patch is out-of-distribution) and flags."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, CLASSES, *spatial, generator=generator)
    labels = torch.randint(CLASSES, (number, 1, *spatial), generator=generator)
    flags = torch.zeros(number, dtype=torch.bool)
    flags[list(ood)] = True
    labels[flags] = 0
    return logits, labels, flags


def slow_pooled(logits, labels, flags, weight):
    """Sums over every pixel and channel, in plain Python; smoothing 1."""
    overlap = total = 0.0
    for patch in range(len(logits)):
        factor = weight if flags[patch] else 1.0
        pixels = logits[patch].double().softmax(dim=0).flatten(1).T.tolist()
        for pixel, truth in zip(pixels, labels[patch].flatten().tolist(), strict=True):
            for channel, value in enumerate(pixel):
                overlap += factor * value * (channel == truth)
                total += factor * (value + (channel == truth))
    return 1 - (2 * overlap + 1) / (total + 1)


def slow_per_class(logits, labels, flags, weight):
    """Equation 4, class by class; smoothing 1, and as many as there are pixels against the empty masks."""
    terms = []
    for channel in range(1, CLASSES):
        probability = logits.double().softmax(dim=1)[:, channel]
        truth = (labels[:, 0] == channel).double()
        known, strange = probability[~flags], probability[flags]
        dice = (2 * (known * truth[~flags]).sum() + 1) / (known.sum() + truth[~flags].sum() + 1)
        empty = 1 - strange.numel() / (strange.sum() + strange.numel()) if strange.numel() else 0.0
        terms.append(float(1 - dice + weight * empty))
    return sum(terms) / len(terms)


@SHAPES
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("ood", [(), (1, 3), (0, 1, 2, 3, 4)], ids=["none", "some", "all"])
@pytest.mark.parametrize(("reduction", "slow"), [("pooled", slow_pooled), ("per_class", slow_per_class)])
def test_loss_agrees_with_its_formula(reduction, slow, spatial, weight, ood):
    logits, labels, flags = batch(spatial, ood=ood)
    loss = CombinedDiceLoss(ood_weight=weight, reduction=reduction)(logits, (labels, flags))
    assert float(loss) == pytest.approx(slow(logits, labels, flags, weight), abs=1e-5)


@SHAPES
def test_pooled_with_weight_one_does_not_look_at_the_flags(spatial):
    """The published runs: one Dice over the shuffled batch."""
    logits, labels, flags = batch(spatial)
    loss = CombinedDiceLoss()
    assert_close(loss(logits, (labels, flags)), loss(logits, labels))


@REDUCTIONS
def test_right_and_empty_predictions_cost_nothing(reduction):
    _, labels, flags = batch((8, 8))
    perfect = torch.nn.functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1) * 100.0
    loss = CombinedDiceLoss(reduction=reduction)
    assert float(loss(perfect, (labels, flags))) == pytest.approx(0, abs=1e-5)
    empty = torch.zeros(2, CLASSES, 8, 8)
    empty[:, 0] = 100
    nothing = torch.zeros(2, 1, 8, 8)
    assert float(loss(empty, (nothing, torch.ones(2)))) == pytest.approx(0, abs=1e-5)


@REDUCTIONS
def test_classes_may_have_a_channel_each(reduction):
    logits, labels, flags = batch((6, 6))
    channels = torch.nn.functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1).float()
    loss = CombinedDiceLoss(reduction=reduction)
    assert_close(loss(logits, (labels, flags)), loss(logits, (channels, flags)))


def pixel_gradients(loss, scale):
    """Mean size of a pixel's gradient in ID and OoD patches of 64 x 64, for predictions as sure as ``scale``."""
    logits, labels, flags = batch((64, 64))
    logits = (scale * logits).requires_grad_()
    loss(logits, (labels, flags)).backward()
    sizes = logits.grad.abs().flatten(1).mean(dim=1)
    return float(sizes[~flags].mean()), float(sizes[flags].mean())


@REDUCTIONS
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0], ids=["unsure", "medium", "sure"])
def test_gradient_of_out_of_distribution_patches_is_not_negligible(reduction, scale):
    known, strange = pixel_gradients(CombinedDiceLoss(reduction=reduction), scale)
    assert strange > 0.1 * known
    assert strange > 1e-8


def test_gradient_of_the_formula_as_printed_is_negligible():
    known, strange = pixel_gradients(CombinedDiceLoss(reduction="per_class", empty_smooth=1e-9), 1.0)
    assert strange < 1e-4 * known
    assert strange < 1e-10


@REDUCTIONS
def test_step_against_the_gradient_lowers_the_confusion(reduction):
    logits, labels, flags = batch((16, 16))
    logits.requires_grad_()
    CombinedDiceLoss(reduction=reduction)(logits, (labels, flags)).backward()
    before = logits.detach().softmax(dim=1)[flags, 1:].sum()
    after = (logits.detach() - 100 * logits.grad).softmax(dim=1)[flags, 1:].sum()
    assert after < before


@REDUCTIONS
def test_weight_zero_takes_the_out_of_distribution_patches_out(reduction):
    logits, labels, flags = batch((8, 8))
    loss = CombinedDiceLoss(ood_weight=0, reduction=reduction)
    assert_close(loss(logits, (labels, flags)), loss(logits[~flags], labels[~flags]))


@REDUCTIONS
def test_each_kind_of_patch_has_its_share_of_the_gradient(reduction):
    logits, labels, flags = batch((8, 8))
    logits.requires_grad_()
    loss = CombinedDiceLoss(ood_weight=2.0, reduction=reduction)
    (expected,) = torch.autograd.grad(loss(logits, (labels, flags)), logits)
    terms = loss.terms(logits, (labels, flags))
    assert list(terms) == ["in_distribution", "out_of_distribution"]
    own, other = (torch.autograd.grad(term, logits)[0] for term in terms.values())
    assert_close(own[~flags], expected[~flags])
    assert_close(other[flags], expected[flags])
    assert not own[flags].any()
    assert not other[~flags].any()


@REDUCTIONS
def test_half_precision_does_not_change_the_type_of_the_loss(reduction):
    logits, labels, flags = batch((8, 8))
    found = CombinedDiceLoss(reduction=reduction)(logits.bfloat16(), (labels, flags))
    assert found.dtype == torch.float32
    assert_close(found, CombinedDiceLoss(reduction=reduction)(logits, (labels, flags)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CombinedDiceLoss(reduction="mean"), "reduction is 'mean'; accepted are pooled and per_class"),
        (lambda: CombinedDiceLoss(ood_weight=-1), "a weight of at least 0"),
        (lambda: CombinedDiceLoss(smooth=0), "smoothings above 0"),
        (lambda: CombinedDiceLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)), "at least two channels"),
        (
            lambda: CombinedDiceLoss()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 5)),
            r"labels of shape \(1, 1, 4, 5\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_trainer_gets_labels_with_their_flags():
    logits, labels, flags = batch((4, 4))
    image, (label, ood) = prepare_patches({"image": logits, "label": labels, "ood": flags, "padding": None}, "cpu")
    assert image is logits
    assert label is labels
    assert torch.equal(ood, flags)

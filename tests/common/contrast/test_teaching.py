"""What a frame is known to show, in the losses of its segmentation."""

import math

import pytest
import torch
from torch.testing import assert_close

from common.contrast import (
    GeneralizedDiceFocal,
    PresenceTeaching,
    decoder_presence_loss,
    gated_pseudo_labels,
    probability_of_presence,
)
from common.contrast.teaching import pseudo_label_loss
from common.errors import ConfigError

PRESENCE = torch.tensor([[1.0, 0.0], [0.0, 0.0]])


@pytest.fixture
def logits():
    return 3 * torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("share", "number"), [(0.005, 1), (0.15, 3), (1.0, 20)])
def test_mean_of_the_most_probable_pixels(logits, share, number):
    found = probability_of_presence(logits, share)
    for frame in range(2):
        for index in (1, 2):
            pixels = logits[frame].flatten(1).T.tolist()
            probable = [math.exp(row[index]) / sum(map(math.exp, row)) for row in pixels]
            expected = sum(sorted(probable)[-number:]) / number
            assert float(found[frame, index - 1]) == pytest.approx(expected, rel=1e-4)


def test_presence_loss(logits):
    shown = probability_of_presence(logits, 0.2)
    terms = [
        math.log(float(shown[n, k])) if PRESENCE[n, k] else math.log(1 - float(shown[n, k]))
        for n in range(2) for k in range(2)
    ]  # fmt: skip
    assert float(decoder_presence_loss(logits, PRESENCE, 0.2)) == pytest.approx(-sum(terms) / 4, rel=1e-4)


def test_frames_that_tell_nothing_teach_nothing(logits):
    told = decoder_presence_loss(logits[:1], PRESENCE[:1], 0.2)
    table = torch.stack([PRESENCE[0], torch.full((2,), -1.0)])
    logits.requires_grad_()
    found = decoder_presence_loss(logits, table, 0.2)
    found.backward()
    assert_close(found.detach(), told)
    assert not logits.grad[1].any()
    assert float(decoder_presence_loss(logits, torch.full((2, 2), -1.0)).detach()) == 0
    labels = gated_pseudo_labels(logits.detach(), table)
    assert (labels[1] == -1).all()
    assert_close(labels[0], gated_pseudo_labels(logits.detach(), PRESENCE)[0])


@pytest.mark.parametrize("shown", [0, 1])
def test_presence_loss_of_a_certain_segmentation_has_its_gradient(shown):
    """In float32 a probability is 1 from a difference of 17 on, and 0 from 104 on."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1 - shown] = -60.0
    logits[:, shown] = 60.0
    logits.requires_grad_()
    loss = decoder_presence_loss(logits, torch.full((1, 1), 1.0 - shown), 0.25)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(120.0)
    assert logits.grad.abs().amax(dim=(2, 3)).flatten().tolist() == pytest.approx([1.0, 1.0])


def test_terms_without_a_frame_are_nothing(logits):
    teaching = PresenceTeaching(presence_weight=1.0, pseudo_weight=1.0, network=torch.nn.Linear(1, 1))
    none = {"images": logits[:0], "logits": logits[:0], "presence": PRESENCE[:0]}
    assert teaching.losses(torch.nn.Linear(1, 1), **none, share=1.0) == {"presence": 0.0, "pseudo": 0.0}


@pytest.mark.parametrize("confidence", [0.0, 0.8])
def test_pseudo_labels_name_what_a_frame_shows(logits, confidence):
    found = gated_pseudo_labels(logits, PRESENCE, confidence)
    for place in ((0, 0, 0), (0, 2, 3), (0, 4, 1), (1, 0, 0), (1, 3, 2)):
        frame, row, column = place
        allowed = [0, 1] if frame == 0 else [0]
        weights = {index: math.exp(float(logits[frame, index, row, column])) for index in allowed}
        best = max(weights, key=weights.get)
        certain = weights[best] / sum(weights.values()) >= confidence
        assert int(found[place]) == (best if certain else -1)
    assert {int(value) for value in found[1].unique()} == {0}
    assert bool((found == -1).any()) == (confidence > 0)


def test_uncertain_pixels_count_for_nothing(logits):
    label = gated_pseudo_labels(logits, PRESENCE, 0.8)
    each = [
        -float(logits[n, :, i, j].log_softmax(dim=0)[label[n, i, j]]) if label[n, i, j] >= 0 else 0.0
        for n in range(2) for i in range(5) for j in range(4)
    ]  # fmt: skip
    assert float(pseudo_label_loss(logits, label)) == pytest.approx(sum(each) / 40, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"presence_weight": -1.0}, "presence_weight is -1.0; accepted are weights of at least 0"),
        ({"presence_share": 0.0}, "presence_share is 0.0; accepted is above 0, up to 1"),
        ({"ramp_share": 2.0}, "ramp_share is 2.0; accepted are numbers from 0 to 1"),
        ({"pseudo_confidence": -0.1}, "pseudo_confidence is -0.1; accepted are numbers from 0 to 1"),
        ({"pseudo_weight": 1.0}, "pseudo_weight is set, but there is no network to average"),
    ],
)
def test_settings_that_are_not_accepted(settings, text):
    with pytest.raises(ConfigError, match=text):
        PresenceTeaching(**settings)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_focal_loss(logits, form):
    label = torch.randint(0, 3, (2, 1, 5, 4), generator=torch.Generator().manual_seed(1))
    loss, focal = GeneralizedDiceFocal(form), []
    for n in range(2):
        for i in range(5):
            for j in range(4):
                row, own = logits[n, :, i, j], int(label[n, 0, i, j])
                for index in range(3):
                    if form == "softmax":
                        right = float(row.softmax(dim=0)[index]) if index == own else 1.0
                    else:
                        right = float(row[index].sigmoid()) if index == own else 1 - float(row[index].sigmoid())
                    focal.append(-((1 - right) ** 2) * math.log(right))
    dice = loss.dice(logits, label)
    assert_close(loss(logits, label) - dice, torch.tensor(sum(focal) / len(focal)), rtol=1e-3, atol=1e-5)


def test_mean_dice_of_all_classes(logits):
    label = torch.randint(0, 3, (2, 1, 5, 4), generator=torch.Generator().manual_seed(1))
    chances, dices = logits.softmax(dim=1), []
    for index in range(3):
        own = (label[:, 0] == index).float()
        dices.append(2 * float((chances[:, index] * own).sum()) / float(chances[:, index].sum() + own.sum()))
    found = GeneralizedDiceFocal(mean_dice=True)(logits, label) - GeneralizedDiceFocal().focal(logits, label)
    assert float(found) == pytest.approx(1 - sum(dices) / 3, rel=1e-4)


def test_focal_form_that_is_none():
    with pytest.raises(ConfigError, match="focal_form is 'tanh'; accepted are softmax and sigmoid"):
        GeneralizedDiceFocal("tanh")

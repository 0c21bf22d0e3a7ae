import math

import pytest
import torch
from monai.networks.nets import UNet, VNet
from torch.testing import assert_close

from common.double_mix.network import CoTrainedPair, SingleStudent
from common.networks import DenseSkipUNet

UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (4, 8), "strides": (2,)}
MEMBERS = [
    (UNet, UNET),
    (DenseSkipUNet, {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "features": (4, 8)}),
    (VNet, {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}),
]


@pytest.fixture(params=MEMBERS, ids=lambda item: item[0].__name__)
def pair(request):
    torch.manual_seed(0)
    member, settings = request.param
    return CoTrainedPair(member, **settings)


def test_two_networks_start_apart(pair):
    first, second = (dict(network.named_parameters()) for network in (pair.network_a, pair.network_b))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_training_gives_the_logits_of_both(pair):
    image, other = torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32)
    torch.manual_seed(1)
    first, second = pair.train()(image, other)
    torch.manual_seed(1)
    assert_close(first, pair.network_a(image))
    assert_close(second, pair.network_b(other))


def test_evaluation_gives_the_logarithm_of_the_mean_softmax(pair):
    image = torch.randn(2, 1, 32, 32)
    logits = pair.eval()(image)
    mean = (pair.network_a(image).softmax(1) + pair.network_b(image).softmax(1)) / 2
    assert_close(logits.softmax(1), mean)
    assert_close(logits, mean.log(), rtol=1e-4, atol=1e-5)
    assert_close(pair.each(image)[1], pair.network_b(image))


def test_certain_networks_give_finite_logits():
    class Sure(torch.nn.Module):
        def forward(self, image):
            return torch.cat([image * 0 + 500, image * 0, image * 0 - 500], dim=1)

    logits = CoTrainedPair(Sure).eval()(torch.zeros(1, 1, 2, 2))
    assert logits.isfinite().all()
    assert_close(logits[0, :, 0, 0], torch.tensor([0.0, -500, -1000]), rtol=0, atol=math.log(2) + 1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_torchscript_equals_eager(training):
    torch.manual_seed(0)
    pair = CoTrainedPair(MEMBERS[1][0], **MEMBERS[1][1]).train(training)
    image = torch.randn(1, 1, 16, 16)
    assert_close(torch.jit.script(pair)(image), pair(image))


def test_one_student_answers_alone():
    torch.manual_seed(0)
    student = SingleStudent(UNet, **UNET)
    image = torch.randn(1, 1, 16, 16)
    assert [name for name, _ in student.named_children()] == ["network_a"]
    assert_close(student.eval()(image), student.network_a(image))
    assert_close(student.train()(image), student.each(image))
    assert len(student(image)) == student.students == 1

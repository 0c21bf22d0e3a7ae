"""What one pass, or passes of a detector's own, tell of a scan."""

import math

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch.testing import assert_close

from common.detectors import (
    DetectorCatalog,
    DropoutPasses,
    EnsemblePasses,
    FeaturePooling,
    OdinPass,
    Scan,
    measure_cost,
)
from common.detectors.outputs import class_logits, softmax_uncertainty
from common.errors import ConfigError, MissingDataError, WeightsError
from common.networks import DenseSkipUNet, SliceWise
from common.networks.slicewise import fold_slices
from common.runtime.weights import save_atomically
from common.spectral import SpectralInferer, spectral_signature

SIZE = (8, 8, 8)
LAYERS = ("encoders.0", "encoders.1", "decoders.0")


def make_network(seed=0, classes=1, dropout=0.0):
    torch.manual_seed(seed)
    network = DenseSkipUNet(3, 1, classes, features=(3, 4), norm=None, dropout=dropout)
    return network.eval()


def make_scan(network, seed=0, **more):
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed))
    inferer = SpectralInferer(SIZE, LAYERS, divisor=network.divisor)
    return Scan(image, network, inferer, name=f"case{seed}", **more)


def feature_maps(network, image, layer):
    found = []
    with torch.no_grad(), network.get_submodule(layer).register_forward_hook(lambda *args: found.append(args[2])):
        logits = network(image)
    return found[0][0].double(), logits


@pytest.mark.parametrize("classes", [1, 3])
def test_pooled_features_are_means_over_all_and_over_each_class(classes):
    network = make_network(classes=classes)
    softmax = classes > 1
    scan = make_scan(network, pooled_layers=LAYERS, softmax=softmax)
    pooling = scan.outcome.pooling
    features, logits = feature_maps(network, scan.image, "decoders.0")
    best = class_logits(logits, softmax=softmax)[0].argmax(dim=0)
    assert_close(pooling.mean("decoders.0"), features.flatten(1).mean(dim=1).numpy(), rtol=1e-5, atol=1e-6)
    expected = torch.stack([features[:, best == k].mean(dim=1) for k in range(max(2, classes))])
    assert_close(pooling.class_means("decoders.0"), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_class_that_is_not_predicted_has_no_mean():
    network = make_network()
    nn.init.constant_(network.head.bias, -100.0)
    means = make_scan(network, pooled_layers=LAYERS).outcome.pooling.class_means("encoders.1")
    assert np.isfinite(means[0]).all()
    assert np.isnan(means[1]).all()


def test_blocks_tell_class_share_and_features():
    network = make_network()
    scan = make_scan(network)
    pooling = FeaturePooling(LAYERS, block=4)
    with torch.no_grad(), pooling.watch(network):
        logits = network(scan.image)
    found = pooling.blocks(100, torch.Generator().manual_seed(0))
    assert found.shape == (8, 1 + len(LAYERS), 4)
    features, _ = feature_maps(network, scan.image, "decoders.0")
    expected = {}
    for corner in np.ndindex(2, 2, 2):
        place = tuple(slice(4 * k, 4 * k + 4) for k in corner)
        share = float((logits[0, 0][place] > 0).float().mean())
        expected[tuple(features[(slice(None), *place)].flatten(1).mean(dim=1).tolist())] = share
    for block in found:
        near = min(expected, key=lambda values, b=block: math.dist(values, b[3, :3]))
        assert block[3, :3] == pytest.approx(near, abs=1e-5)
        assert block[0, 1] == pytest.approx(expected[near], abs=1e-6)
        assert block[0, 0] == float(expected[near] > 0.5)


def test_half_of_the_blocks_lie_on_the_foreground():
    pooling = FeaturePooling(("",), block=1)
    image = torch.zeros(1, 1, 10, 10)
    image[..., :2] = 1
    network = nn.Conv2d(1, 1, 1)
    nn.init.ones_(network.weight)
    nn.init.constant_(network.bias, -0.5)
    with torch.no_grad(), pooling.watch(network):
        network(image)
    foreground = pooling.blocks(20, torch.Generator().manual_seed(0))[:, 0, 1]
    assert len(foreground) == 20
    assert foreground.sum() >= 10


def test_layers_within_a_slice_wise_network_are_pooled_as_volumes():
    torch.manual_seed(3)
    network = SliceWise(BasicUNet, in_channels=1, out_channels=1, features=(2, 3, 3, 3, 3, 2), norm="batch").eval()
    image = torch.randn(1, 1, 32, 16, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        network.head.bias -= network(image).median()  # half of the voxels are foreground
    layers = ["body.conv_0", "body.down_1", "features"]
    inferer = SpectralInferer((32, 16, 3), layers, divisor=(16, 16, 1))
    scan = Scan(image, network, inferer, layers=layers, pooled_layers=layers)
    pooling = scan.outcome.pooling
    with torch.no_grad():
        first = network.body.conv_0(fold_slices(image))
        deeper = network.body.down_1(first)
        foreground = fold_slices(network(image)).sigmoid()[:, 0] > 0.5
    assert_close(pooling.mean("body.down_1"), deeper.mean(dim=(0, 2, 3)).double().numpy(), rtol=1e-5, atol=1e-6)
    expected = torch.stack([first.movedim(1, -1)[chosen].mean(dim=0) for chosen in (~foreground, foreground)])
    assert_close(pooling.class_means("body.conv_0"), expected.double().numpy(), rtol=1e-2, atol=1e-3)
    assert pooling.blocks(5, torch.Generator().manual_seed(0)).shape == (5, 4, 3)


def test_hooks_are_gone_and_the_pass_is_made_once():
    network = make_network()
    scan = make_scan(network, layers=LAYERS, pooled_layers=LAYERS)
    assert scan.outcome is scan.outcome
    assert not any(module._forward_hooks for module in network.modules())
    features, logits = feature_maps(network, scan.image, "decoders.0")
    assert_close(scan.outcome.logits, logits)
    signature = scan.outcome.collector.signatures(1, per_voxel=False, layers=LAYERS[-1:])[0]
    assert_close(signature, spectral_signature(features.float()))


def test_dice_is_over_channels_that_both_have():
    scan = make_scan(make_network(), label=torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2))
    logits = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 2, 2)
    assert scan.dice(logits) == pytest.approx(0.5)
    assert math.isnan(make_scan(make_network()).dice(logits))


def test_odin_steps_along_a_slow_gradient():
    network = make_network().double()
    odin = OdinPass(temperature=3.0, epsilon=0.01)
    window = torch.randn(1, 1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def sure(image):
        return float((class_logits(network(image)) / 3).softmax(dim=1).amax(dim=1).log().mean())

    perturbed = odin.perturb(window, network, softmax=False)
    with torch.no_grad():
        for place in [(0, 0, 0), (1, 2, 3), (3, 3, 0), (2, 1, 1)]:
            step = torch.zeros_like(window)
            step[(0, 0, *place)] = 1e-5
            slope = sure(window + step) - sure(window - step)
            assert float((perturbed - window)[(0, 0, *place)]) == pytest.approx(math.copysign(0.01, slope))
        assert sure(perturbed) > sure(window)


def test_odin_without_a_step_is_the_softmax_at_its_temperature():
    scan = make_scan(make_network())
    found = OdinPass(temperature=50.0, epsilon=0.0)(scan)
    assert found == pytest.approx(softmax_uncertainty(scan.logits, temperature=50.0), abs=1e-9)


def mean_entropy_by_hand(probabilities):
    mean = np.mean(probabilities, axis=0)
    chosen = mean[mean > 0.5]
    return float(np.mean(-chosen * np.log(chosen) - (1 - chosen) * np.log(1 - chosen)))


def test_ensemble_is_the_entropy_of_the_mean_probability():
    networks = [make_network(seed) for seed in range(3)]
    for network in networks:
        nn.init.constant_(network.head.bias, 0.3)
    scan = make_scan(networks[0])
    with torch.no_grad():
        probabilities = [network(scan.image).double().sigmoid().numpy() for network in networks]
    assert EnsemblePasses(networks)(scan) == pytest.approx(mean_entropy_by_hand(probabilities), abs=1e-6)
    with pytest.raises(ConfigError, match=r"networks holds 1; .*ensemble_files"):
        EnsemblePasses(networks[:1])


def test_dropout_passes_differ_from_each_other_and_repeat_for_the_same_scan():
    network = make_network(dropout=0.5)
    nn.init.constant_(network.head.bias, 0.3)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = [DropoutPasses(network, passes=3)(make_scan(network)) for _ in range(2)]
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0] != DropoutPasses(network, passes=1)(make_scan(network))
    assert found[0] != DropoutPasses(network, passes=3)(make_scan(network, seed=1))
    # The judged network itself drops nothing.
    assert not any(module.training for module in network.modules())


def test_dropout_needs_a_network_that_drops():
    with pytest.raises(ConfigError, match="dropout a share above 0"):
        DropoutPasses(make_network())


class TestCatalog:
    @pytest.fixture
    def files(self, tmp_path):
        paths = [tmp_path / f"{seed}.pt" for seed in range(2)]
        for seed, path in enumerate(paths):
            save_atomically(make_network(seed).state_dict(), path)
        return [str(path) for path in paths]

    def test_detectors_may_be_chosen_also_of_single_layers(self):
        network = make_network()
        chosen = [f"signature_{LAYERS[0]}", "signature"]
        made = DetectorCatalog(LAYERS, "encoders.1", detector_names=chosen).make(network)
        assert [detector.name for detector in made.detectors] == chosen
        assert set(made.measures) == {f"spectrum_{LAYERS[0]}", "spectrum"}
        scan = make_scan(network, layers=LAYERS)
        own = made.measures[f"spectrum_{LAYERS[0]}"].take(scan)
        last = DetectorCatalog(LAYERS[:1], "encoders.1").make(network).measures["spectrum"].take(scan)
        assert own == pytest.approx(last)
        everything = DetectorCatalog(LAYERS, "encoders.1").make(network)
        assert chosen[0] not in {detector.name for detector in everything.detectors}
        with pytest.raises(ConfigError, match=r"detector_names has 'signatures'; accepted are signature, .*knn"):
            DetectorCatalog(LAYERS, "encoders.1", detector_names=["signatures"]).make(network)

    def test_what_is_missing_is_left_out(self):
        made = DetectorCatalog(LAYERS, "encoders.1").make(make_network())
        names = {detector.name for detector in made.detectors}
        assert {"signature", "msp", "odin", "dknn", "ihf", "knn", "mahalanobis", "energy"} <= names
        assert names.isdisjoint({"unc_dropout", "unc_ensemble", "outlier_exposure", "lee_2017"})
        assert {detector.measure for detector in made.detectors} == set(made.measures)

    def test_files_add_their_detectors(self, files):
        catalog = DetectorCatalog(
            LAYERS, "encoders.1", ensemble_files=files, exposure_file=files[0], lee_file=files[1], dropout_file=files[1]
        )
        network = make_network(dropout=0.1)
        made = {detector.name: detector for detector in catalog.make(network).detectors}
        assert {name for name, found in made.items() if found.own_network} == {"outlier_exposure", "lee_2017"}
        measures = catalog.make(network).measures
        label = (torch.rand(1, 1, *SIZE) > 0.5).float()
        scan = make_scan(network, label=label)
        score, dice = measures["lee_2017"].take(scan)
        own = make_network(1)
        with torch.no_grad():
            assert score == pytest.approx(softmax_uncertainty(class_logits(own(scan.image))))
            assert dice == pytest.approx(scan.dice(own(scan.image)))
        dropped = measures["unc_dropout"].take.network
        assert_close(dropped.head.weight, own.head.weight)

    def test_missing_and_foreign_weights_are_named(self, files, tmp_path):
        with pytest.raises(MissingDataError, match=r"no weights at .*none\.pt"):
            DetectorCatalog(LAYERS, "encoders.1", lee_file=str(tmp_path / "none.pt")).make(make_network())
        with pytest.raises(WeightsError, match="belongs to another network"):
            DetectorCatalog(LAYERS, "encoders.1", lee_file=files[0]).make(make_network(classes=3))

    def test_measures_know_files_by_their_content(self, files):
        catalog, network = DetectorCatalog(LAYERS, "encoders.1", lee_file=files[0]), make_network()
        before = catalog.make(network).measures["lee_2017"].settings
        save_atomically(make_network(5).state_dict(), files[0])
        assert catalog.make(network).measures["lee_2017"].settings != before


def test_cost_counts_time_and_what_is_held():
    seconds, megabytes = measure_cost(lambda: torch.ones(24 * 2**18).sum(), torch.device("cpu"))
    assert 0 < seconds < 10
    assert math.isnan(megabytes) or 20 < megabytes < 60

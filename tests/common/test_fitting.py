import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import FeatureError, MissingDataError, NotEnoughCasesError, OutputError
from common.runtime.weights import save_atomically
from common.spectral import (
    SignatureBank,
    SpectralInferer,
    fitting,
    preprocessing_digest,
    spectral_signature,
    weights_digest,
)
from common.spectral.fitting import BankFitter, compute_signatures
from common.transforms import NormalizeByModalityd

CPU = torch.device("cpu")
CASES = [{"image": k} for k in range(5)]


class Network(nn.Module):
    """Dropout tells whether the network is in evaluation mode."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Conv2d(1, 3, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return self.head(self.drop(self.features(image)))


def prepare(case):
    return {"image": 1 + torch.randn(1, 8, 10, generator=torch.Generator().manual_seed(case["image"]))}


def make_inferer(**settings):
    return SpectralInferer((8, 8), ["drop"], **settings)


def direct_signatures(network, cases, transform=None, **settings):
    """Without dropout and without windows."""
    with torch.no_grad():
        images = [prepare(case)["image"] if transform is None else transform(prepare(case))["image"] for case in cases]
        rows = [spectral_signature(network.features(image[None])[0], **settings) for image in images]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("per_voxel", [False, True])
def test_signatures_are_those_of_each_whole_image(per_voxel):
    network = Network().train()
    signatures, digest = compute_signatures(CASES, prepare, network, make_inferer(per_voxel=per_voxel), CPU)
    assert_close(signatures, direct_signatures(network, CASES, per_voxel=per_voxel), rtol=0, atol=1e-6)
    assert signatures.dtype == np.float64
    assert digest == weights_digest(network.state_dict())
    assert not network.training


@pytest.fixture
def gather(monkeypatch, ranks):
    """Runs the processes of a group one after another, then each again with what the others have sent."""

    def run(cases, size):
        sent, gathers = [], []
        monkeypatch.setattr(fitting.dist, "all_gather_object", lambda into, rows: gathers[-1](into, rows))

        def only_send(into, rows):
            sent.append(rows)
            into[:] = [[np.zeros((1, 3))]] * size

        def receive(into, rows):
            into[:] = sent

        results = []
        for behavior in (only_send, receive):
            gathers.append(behavior)
            for rank in range(size):
                ranks(fitting, rank, size)
                results.append(compute_signatures(cases, prepare, Network(), make_inferer(), CPU)[0])
        return sent, results[size:]

    return run


@pytest.mark.parametrize("size", [2, 3])
def test_cases_are_shared_out_over_the_processes_and_gathered_on_all(gather, size):
    sent, results = gather(CASES, size)
    direct = direct_signatures(Network(), CASES)
    for rank in range(size):
        assert_close(np.concatenate(sent[rank]), direct[rank::size], rtol=0, atol=1e-6)
        assert_close(results[rank], np.concatenate([direct[k::size] for k in range(size)]), rtol=0, atol=1e-6)


def test_process_without_a_case_gets_the_signatures_of_the_others(gather):
    sent, results = gather(CASES[:2], 3)
    assert [len(rows) for rows in sent] == [1, 1, 0]
    assert_close(results[2], direct_signatures(Network(), CASES[:2]), rtol=0, atol=1e-6)


@pytest.fixture
def fit(tmp_path):
    """Fits a bank for weights on disk with a network that holds others; gives the bank and its file."""

    def run(cases=CASES, **settings):
        save_atomically(Network(seed=1).state_dict(), tmp_path / "model.pt")
        transforms = [NormalizeByModalityd("image", "MR")]
        fitter = BankFitter(cases, [prepare], transforms, Network(), make_inferer(), CPU, tmp_path, **settings)
        return fitter.run()

    return run


@pytest.mark.parametrize(("settings", "c"), [({}, 2.5), ({"threshold_c": 3.0}, 3.0)])
def test_bank_is_bound_to_the_weights_on_disk(fit, tmp_path, settings, c):
    bank, trained = fit(**settings), Network(seed=1)
    direct = direct_signatures(trained, CASES, NormalizeByModalityd("image", "MR"))
    assert_close(bank.signatures, direct[np.lexsort(direct.T[::-1])], rtol=0, atol=1e-6)
    alone = [min(np.linalg.norm(row - other) for other in np.delete(direct, k, 0)) for k, row in enumerate(direct)]
    assert bank.threshold == pytest.approx(np.mean(alone) + c * np.std(alone), abs=1e-5)
    assert vars(bank.settings) == {
        "layers": ("drop",),
        "per_voxel": False,
        "precision": "float32",
        "roi_size": (8, 8),
        "overlap": 0.25,
        "divisor": 8,
        "distance": "nearest",
        "weights_digest": weights_digest(trained.state_dict()),
        "preprocessing_digest": preprocessing_digest([NormalizeByModalityd("image", "MR")]),
    }
    loaded = SignatureBank.load(tmp_path / "signature_bank.npz")
    assert (loaded.threshold, loaded.c, loaded.settings) == (bank.threshold, c, bank.settings)


def test_distance_can_be_chosen(fit):
    bank = fit(distance="mahalanobis")
    assert bank.settings.distance == "mahalanobis"
    assert bank.threshold > fit().threshold


@pytest.mark.parametrize(
    ("cases", "settings", "text"),
    [
        (CASES[:1], {}, r"1 distinct training case\(s\): a threshold needs at least 2"),
        (CASES[:1] * 3, {}, "1 distinct"),
        (CASES[:2], {"distance": "mahalanobis"}, "2 distinct .* at least 3"),
    ],
)
def test_too_few_cases_for_a_threshold_leave_no_bank(fit, tmp_path, cases, settings, text):
    with pytest.raises(NotEnoughCasesError, match=text):
        fit(cases, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_bank_needs_weights(tmp_path):
    fitter = BankFitter(CASES, [prepare], [], Network(), make_inferer(), CPU, tmp_path / "absent")
    with pytest.raises(MissingDataError, match=r"no weights at .*absent.model\.pt"):
        fitter.run()


def test_bank_that_cannot_be_written_is_named(fit, tmp_path):
    (tmp_path / "signature_bank.npz").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*signature_bank\.npz"):
        fit()


def test_only_the_main_process_writes_and_all_wait_for_the_weights(fit, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(fitting, "is_main_process", lambda: False)
    monkeypatch.setattr(fitting, "wait_for_all", lambda: waited.append((tmp_path / "models").exists()))
    assert len(fit().signatures) == len(CASES)
    assert waited == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(("case", "name"), [({"case": "p7"}, "case 'p7'"), ({"image": "a/b.nii"}, "case 'b.nii'")])
def test_case_whose_features_have_no_signature_is_named(case, name):
    def spoil(data):
        return {"image": torch.zeros(1, 8, 10)} if data not in CASES else prepare(data)

    network = Network()
    torch.nn.init.zeros_(network.features.bias)
    with pytest.raises(FeatureError, match=rf"^{name}: .*zero everywhere"):
        compute_signatures([*CASES[:2], case], spoil, network, make_inferer(), CPU)

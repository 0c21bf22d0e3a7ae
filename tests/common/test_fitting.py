import numpy as np
import pytest
import torch
from monai.data import Dataset
from torch import nn
from torch.testing import assert_close

from common.errors import ConfigError, FeatureError, MissingDataError, NotEnoughCasesError, OutputError
from common.runtime.weights import save_atomically
from common.spectral import (
    QualityCurve,
    SignatureBank,
    SpectralInferer,
    fitting,
    measuring,
    preprocessing_digest,
    spectral_signature,
    weights_digest,
)
from common.spectral.distance import distance_to, leave_one_out
from common.spectral.fitting import BankFitter
from common.spectral.measuring import QUALITY_DAMAGES, QualityMeasurer, ScanMeasurer, share_out
from common.spectral.pseudo_layers import uncertainty
from common.spectral.quality import quality_score
from common.transforms import NormalizeByModalityd
from common.transforms.damage import DamageScand

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


def signatures_of(cases, transform, network=None, **settings):
    """Signatures of cases, computed by all processes."""
    measurer = ScanMeasurer((network or Network()).eval(), make_inferer(**settings), CPU)
    items = Dataset(list(cases), transform)
    return share_out("signatures", cases, items, lambda _, item: measurer.signature(item["image"]))


@pytest.mark.parametrize("per_voxel", [False, True])
def test_signatures_are_those_of_each_whole_image(per_voxel):
    signatures = np.stack(signatures_of(CASES, prepare, per_voxel=per_voxel))
    assert_close(signatures, direct_signatures(Network(), CASES, per_voxel=per_voxel), rtol=0, atol=1e-6)
    assert signatures.dtype == np.float64


@pytest.fixture
def gather(monkeypatch, ranks):
    """Runs the processes of a group one after another, then each again with what the others have sent."""

    def run(cases, size):
        sent, gathers = [], []
        monkeypatch.setattr(measuring.dist, "all_gather_object", lambda into, rows: gathers[-1](into, rows))

        def only_send(into, rows):
            sent.append(rows)
            into[:] = [[]] * size

        def receive(into, rows):
            into[:] = sent

        results = []
        for behavior in (only_send, receive):
            gathers.append(behavior)
            for rank in range(size):
                ranks(measuring, rank, size)
                results.append(signatures_of(cases, prepare))
        return sent, results[size:]

    return run


@pytest.mark.parametrize("size", [2, 3])
def test_cases_are_shared_out_over_the_processes_and_gathered_on_all(gather, size):
    sent, results = gather(CASES, size)
    direct = direct_signatures(Network(), CASES)
    for rank in range(size):
        assert [number for number, _ in sent[rank]] == list(range(rank, len(CASES), size))
        assert_close(np.stack(results[rank]), direct, rtol=0, atol=1e-6)


def test_process_without_a_case_gets_the_signatures_of_the_others(gather):
    sent, results = gather(CASES[:2], 3)
    assert [len(rows) for rows in sent] == [1, 1, 0]
    assert_close(np.stack(results[2]), direct_signatures(Network(), CASES[:2]), rtol=0, atol=1e-6)


@pytest.fixture
def fit(tmp_path):
    """Fits a bank for weights on disk with a network that holds others; gives the bank and its file."""

    def run(cases=CASES, *, inferer=None, **settings):
        save_atomically(Network(seed=1).state_dict(), tmp_path / "model.pt")
        transforms = [NormalizeByModalityd("image", "MR")]
        fitter = BankFitter(
            cases, [prepare], transforms, Network(), inferer or make_inferer(), CPU, tmp_path, **settings
        )
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
        "signature_form": "unit",
        "sigmoid": False,
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


def test_layers_count_alike_with_the_distance_that_is_shrunk(fit, tmp_path):
    layers = ["image", "drop", "output"]
    inferer = SpectralInferer((8, 8), layers, signature_form="full", per_voxel=True, sigmoid=True)
    bank = fit(inferer=inferer, distance="ledoit_wolf")
    sizes = bank.layers.sizes
    assert (len(sizes), sum(sizes), sizes[-1]) == (3, bank.signatures.shape[1], 1)
    assert_close(bank.leave_one_out, leave_one_out(bank.signatures, "ledoit_wolf", sizes), rtol=1e-12, atol=0)
    loaded = SignatureBank.load(tmp_path / "signature_bank.npz")
    row = bank.signatures[0] + 0.01
    assert loaded.oodm(row) == bank.oodm(row) == distance_to(row[None], bank.signatures, "ledoit_wolf", sizes)[0]


HELD_OUT = [{"image": number, "case": f"v{number}", "patient": f"p{number // 2}"} for number in range(20, 32)]


class Labeled:
    """Held-out cases with labels: foreground is what is bright."""

    def __init__(self, cases=HELD_OUT, labeled=True):
        self.cases, self.labeled = cases, labeled

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, index):
        image = prepare(self.cases[index])["image"]
        return {"image": image} | ({"label": (image > 1).long()} if self.labeled else {})


class SometimesEmpty(Labeled):
    """The labels of every other case hold nothing."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"label": item["label"] * (index % 2)}


def foreground(output):
    return {"pred": (output["pred"] > 0).long()}


def fit_held_out(fit, **settings):
    chosen = {"held_out": Labeled(), "held_out_cases": HELD_OUT, "postprocessing": foreground, "quality_cases": 12}
    return fit(**(chosen | settings))


def test_held_out_cases_calibrate_p_values_patient_by_patient(fit, tmp_path, caplog):
    bank = fit_held_out(fit, quality_cases=0)
    network = Network(seed=1)
    with torch.no_grad():
        rows = [spectral_signature(network.features(prepare(case)["image"][None])[0]).numpy() for case in HELD_OUT]
    scores = sorted(bank.oodm(row) for row in rows)
    assert_close(np.sort(bank.held_out.scores), np.asarray(scores), rtol=0, atol=1e-6)
    assert bank.held_out.weights.tolist() == [0.5] * 12
    assert bank.ranked.patients == 6.0
    assert (bank.quality, SignatureBank.load(tmp_path / "signature_bank.npz").p_value(9.0)) == (None, 1 / 7)


def test_log_tells_what_p_values_are_worth(fit, caplog):
    with caplog.at_level("INFO"):
        fit_held_out(fit, quality_cases=0)
        fit()
    assert (
        "p-values rank a scan among 12 case(s) of 6 patient(s) that trained no weights: none is below 0.143,"
        in caplog.text
    )
    assert "p-values come from the training cases themselves: no rate of false alarms is promised" in caplog.text


def test_rate_of_false_alarms_sets_the_threshold(fit):
    bank = fit_held_out(fit, quality_cases=0, false_alarm_rate=0.3)
    assert bank.threshold == bank.ranked.threshold(0.3)
    with pytest.raises(NotEnoughCasesError, match=r"no p-value from 6 calibration patient\(s\) is below 0\.143"):
        fit_held_out(fit, quality_cases=0, false_alarm_rate=0.1)


def test_dice_is_predicted_from_oodm_and_uncertainty_of_damaged_held_out_scans(fit):
    bank = fit_held_out(fit, coverage=0.5, inferer=make_inferer(sigmoid=True))
    network, measured = Network(seed=1).eval(), []
    for case in HELD_OUT:
        for name in (None, *QUALITY_DAMAGES):
            image = DamageScand("image")({"image": prepare(case)["image"], "case": case["case"], "damage": name})[
                "image"
            ]
            with torch.no_grad():
                features = network.features(image[None])
                logits, truth = network.head(features)[0], prepare(case)["image"] > 1
            dice = 2 * float(((logits > 0) & truth).sum()) / float((logits > 0).sum() + truth.sum())
            doubt = float(uncertainty(logits, sigmoid=True))
            oodm = bank.oodm(spectral_signature(features[0]))
            measured.append((oodm, quality_score(doubt, oodm), dice, case["patient"]))
    oodms, doubts, dices, patients = zip(*measured, strict=True)
    assert len(set(doubts)) > len(HELD_OUT)
    for curve, scores in ((bank.quality, oodms), (bank.uncertainty, doubts)):
        for name, array in QualityCurve.fit(scores, dices, patients, coverage=0.5).content().items():
            assert_close(curve.content()[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"held_out": Labeled(labeled=False)}, "no Dice is predicted: 0 labeled patient(s) were kept from training"),
        ({"postprocessing": None}, "no Dice is predicted: 0 labeled patient(s)"),
        ({"quality_cases": 3}, "no Dice is predicted: 3 labeled patient(s) were kept from training, it takes 4;"),
        (
            {},
            "the lower bound of the predicted Dice is 0: it takes 9 labeled patients kept from training, there are 6",
        ),
    ],
)
def test_log_tells_why_no_dice_is_predicted(fit, caplog, settings, text):
    bank = fit_held_out(fit, **settings)
    assert text in caplog.text
    assert (bank.quality is None) == ("no Dice" in text)


@pytest.mark.parametrize(("held_out", "empty"), [(Labeled(), False), (SometimesEmpty(), True)])
def test_bank_knows_whether_scans_may_hold_nothing(fit, tmp_path, held_out, empty):
    bank = fit_held_out(fit, held_out=held_out)
    assert bank.may_be_empty == SignatureBank.load(tmp_path / "signature_bank.npz").may_be_empty == empty


def test_scans_whose_dice_is_measured_are_spread_over_the_patients(fit, monkeypatch):
    seen = []
    monkeypatch.setattr(QualityMeasurer, "_damage", lambda self, number, *_: seen.append(number) or [])
    fit_held_out(fit, quality_cases=6)
    assert seen == [0, 2, 4, 6, 8, 10]


def test_ranges_are_those_of_the_training_scans(fit):
    ranges = fit().ranges
    images = [NormalizeByModalityd("image", "MR")(prepare(case))["image"] for case in CASES]
    brightest = [float(np.quantile(image, 0.99)) for image in images]
    assert ranges.limits[ranges.names.index("bright_0")].tolist() == pytest.approx([min(brightest), max(brightest)])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"quality_cases": -1}, "quality_cases is -1"),
        ({"quality_cases": 1.5}, "quality_cases"),
        ({"coverage": 1}, "cov"),
    ],
)
def test_settings_out_of_their_range_are_refused(fit, settings, text):
    with pytest.raises(ConfigError, match=text):
        fit(**settings)


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
        signatures_of([*CASES[:2], case], spoil, network)

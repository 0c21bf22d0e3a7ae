"""Scans, a bank and a gallery for the tests of the report."""

import numpy as np
import pytest

from common.spectral import SignatureBank
from tests.common.banks import BOUND
from tests.common.report.inference import AFFINE


@pytest.fixture
def bank_file(tmp_path):
    path = tmp_path / "bank.npz"
    SignatureBank.fit(np.eye(3), **BOUND | {"weights_digest": "f" * 64}).save(path)
    return str(path)


@pytest.fixture
def scans(tmp_path, save_nifti):
    """Five scans, stored with their axes in another order; each is brightest where it is segmented."""
    rng = np.random.default_rng(0)
    cases = []
    for name in "abcde":
        image = rng.random((6, 5, 4)).astype(np.float32)
        cases.append({"case": name, "image": save_nifti(tmp_path / "scans" / f"{name}.nii.gz", image, AFFINE)})
    return cases


@pytest.fixture
def shown(monkeypatch):
    """What the gallery is made of, in place of its picture."""
    pictures = []
    monkeypatch.setattr("common.handlers.report.draw_gallery", lambda shown, *_, **__: pictures.append(shown))
    return pictures


@pytest.fixture(autouse=True)
def rendered_on_request(request):
    """Pictures are rendered for tests that read one alone."""
    if "read_picture" not in request.fixturenames:
        request.getfixturevalue("blank_pictures")

"""Whatever happens to the bytes of an archive: it is refused in one line, or nothing of its content has changed."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from common.archive import read_archive
from common.archive.build import _zip
from common.archive.tensors import state_digest
from common.errors import ArchiveError, WeightsError
from common.runtime.weights import read_checkpoint
from common.spectral import SignatureBank, weights_digest
from tests.common.archive.hostile import weights_of
from tests.fuzzing.edits import EDITS, edited


@pytest.fixture
def check(tmp_path):
    """Reads an archive of given bytes: its files, or none when it is refused in one line; nothing is written."""
    file = tmp_path / "received" / "organ.zip"
    file.parent.mkdir()

    def start(content):
        file.write_bytes(content)
        try:
            files = read_archive(str(file), ignore_versions=True).files
        except ArchiveError as error:
            files, text = None, str(error)
        else:
            text = "organ.zip"
        assert text.startswith("organ.zip")
        assert "\n" not in text
        assert len(text) < 400
        assert list(file.parent.iterdir()) == [file]
        assert file.read_bytes() == content
        return files

    return start


@given(edits=st.lists(EDITS, min_size=1, max_size=3))
@example(edits=[("flip", 0, 0)])
@pytest.mark.tried(
    "Anything at random",
    "Any damage to an archive",
    "Refused in one line, or nothing of its content has changed.",
)
def test_edited_archive_is_refused_or_holds_the_same(archive, files, check, edits):
    read = check(edited(Path(archive).read_bytes(), edits))
    assert read is None or {f"organ/{name}": content for name, content in read.items()} == files


@given(edits=st.lists(EDITS, min_size=1, max_size=3))
@example(edits=[("flip", 0, 0)])
@pytest.mark.parametrize("name", ["model.pt", "signature_bank.npz"])
@pytest.mark.tried(
    "Anything at random",
    "Any damage to weights or bank below a valid manifest",
    "Refused in one line, or they mean the same.",
)
def test_edited_weights_or_bank_are_refused_or_mean_the_same(files, sealed, check, name, edits, tmp_path):
    """With a manifest that agrees; torch and numpy find in what is accepted what they found before."""
    path = f"organ/models/{name}"
    changed = edited(files[path], edits)
    if check(sealed(files | {path: changed})) is None:
        return
    if name == "model.pt":
        states = [
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) for content in (files[path], changed)
        ]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    else:
        (tmp_path / "bank.npz").write_bytes(changed)
        bank = SignatureBank.load(tmp_path / "bank.npz")
        assert (bank.threshold, bank.c) == (pytest.approx(2**0.5), 2.5)


@given(edits=st.lists(EDITS, min_size=1, max_size=2))
def test_edited_manifest_is_refused_or_says_the_same(archive, files, check, edits):
    changed = edited(files["organ/manifest.json"], edits)
    read = check(_zip(files | {"organ/manifest.json": changed}))
    assert read is None or {f"organ/{name}": content for name, content in read.items()} == files | {
        "organ/manifest.json": changed
    }


@given(edits=st.lists(EDITS, min_size=1, max_size=3))
@example(edits=[("flip", 0, 0)])
def test_edited_pickle_of_weights_is_refused_or_read_as_torch_reads_it(edits, tmp_path):
    """In a file that is sound otherwise."""
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.int16)}, buffer)
    with zipfile.ZipFile(buffer) as file:
        records = {name: file.read(f"archive/{name}") for name in ("data.pkl", "data/0", "data/1")}
    content = weights_of(**records | {"data.pkl": edited(records["data.pkl"], edits)})
    try:
        digest = state_digest(content, "model.pt")
        (tmp_path / "model.pt").write_bytes(content)
        state = read_checkpoint(tmp_path / "model.pt")
    except (ArchiveError, WeightsError):
        return
    assert digest == weights_digest(state)

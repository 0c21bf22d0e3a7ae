"""Signatures: made and checked with the keys given, and refused where archive, key or signature differ."""

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from common.archive import install, sign, verify
from common.errors import ArchiveError, MissingDataError, SignatureError

# The package hands out the function of this name.
archive_checks = importlib.import_module("common.archive.verify")


def test_signed_archive_is_verified_and_installed(archive, tmp_path, caplog, write_keys):
    caplog.set_level("INFO")
    private, public = write_keys(tmp_path / "keys")
    sign(archive, private)
    install(archive, str(tmp_path / "models"), public_key=public)
    assert (tmp_path / "models" / "organ" / "LICENSE").is_file()
    assert f"signed by the owner of {public}" in caplog.text


def test_signature_is_the_one_that_openssl_checks(archive, tmp_path, write_keys):
    private, public = write_keys(tmp_path / "keys")
    sign(archive, private)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", archive, "-sigfile"]
    result = subprocess.run([*command, f"{archive}.sig"], capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in result.stdout + result.stderr


def flipped(content):
    """A byte in the middle is another."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (flipped, "organ_v1.2.3.zip"),
        (lambda content: b"some text\n", "organ_v1.2.3.zip is no complete zip file"),
        (lambda content: b"#!/bin/sh\n" + content, "organ_v1.2.3.zip is no complete zip file"),
    ],
    ids=["flipped", "text", "behind a script"],
)
@pytest.mark.tried("Archives and weights", "Signing what is no sound archive", "Refused; no signature is written.")
def test_what_verify_refuses_is_not_signed(archive, tmp_path, write_keys, change, text):
    private, _ = write_keys(tmp_path / "keys")
    Path(archive).write_bytes(change(Path(archive).read_bytes()))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as verified:
        verify(archive, ignore_versions=True)
    with pytest.raises(ArchiveError) as caught:
        sign(archive, private)
    assert str(caught.value) == str(verified.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert sorted(tmp_path.rglob("*")) == before


def test_archive_is_signed_where_its_packages_are_not_installed(archive, tmp_path, write_keys, monkeypatch):
    def refuse(*_):
        raise ArchiveError("other versions")

    monkeypatch.setattr(archive_checks, "check_versions", refuse)
    private, public = write_keys(tmp_path / "keys")
    with pytest.raises(ArchiveError, match="other versions"):
        verify(archive)
    sign(archive, private)
    verify(archive, public_key=public, ignore_versions=True)


@pytest.mark.tried("Archives and weights", "Archives that were changed after they were signed", "Refused.")
def test_archive_changed_after_signing_is_refused(archive, tmp_path, write_keys):
    private, public = write_keys(tmp_path / "keys")
    sign(archive, private)
    with open(archive, "ab") as file:
        file.write(b"x")
    with pytest.raises(SignatureError, match="or the archive was changed; do not install it"):
        install(archive, str(tmp_path / "models"), public_key=public)
    assert not (tmp_path / "models").exists()


@pytest.mark.tried("Archives and weights", "Archives that somebody else signed", "Refused.")
def test_signature_of_somebody_else_is_refused(archive, tmp_path, write_keys):
    sign(archive, write_keys(tmp_path / "mine")[0])
    with pytest.raises(SignatureError, match="the signature is not by the owner of"):
        verify(archive, public_key=write_keys(tmp_path / "others")[1])


def test_unsigned_archive_is_refused_when_a_key_is_given(archive, tmp_path, write_keys):
    with pytest.raises(MissingDataError, match=r"no signature .*organ_v1\.2\.3\.zip\.sig beside the archive; ask"):
        verify(archive, public_key=write_keys(tmp_path / "keys")[1])


def test_unusable_keys_are_named(archive, tmp_path, write_keys):
    locked, _ = write_keys(tmp_path / "locked", password="secret")
    other, other_public = write_keys(tmp_path / "other", kind=lambda: ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text.pem").write_text("no key")
    for key, text in [
        (locked, "is protected by a passphrase"),
        (other, "is a key of another kind; give an Ed25519 private key"),
        (str(tmp_path / "text.pem"), "is no usable private key (it cannot be read)"),
    ]:
        with pytest.raises(SignatureError) as caught:
            sign(archive, key)
        assert text in str(caught.value)
    with pytest.raises(MissingDataError, match=r"key .*none\.pem cannot be read"):
        sign(archive, str(tmp_path / "none.pem"))
    assert not list((tmp_path / "dist").glob("*.sig"))
    (tmp_path / "dist" / "organ_v1.2.3.zip.sig").write_bytes(b"x")
    with pytest.raises(SignatureError, match="another kind; give an Ed25519 public key"):
        verify(archive, public_key=other_public)


def test_empty_name_of_a_key_is_no_wish_to_skip_the_check(archive):
    """As of a variable of a shell that is not set."""
    with pytest.raises(MissingDataError, match="key  cannot be read"):
        verify(archive, public_key="")

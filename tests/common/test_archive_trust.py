"""What makes an archive trusted: digests computed without torch, versions of packages, signatures."""

import io
import shutil
import subprocess
import sys

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from common.archive import build, build_archive, install, sign, verify
from common.archive.tensors import state_digest
from common.archive.tool import main
from common.archive.versions import check_versions, is_accepted, version_numbers
from common.errors import ArchiveError, MissingDataError, SignatureError
from common.spectral import weights_digest

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.fixture
def archive(make_bundle, tmp_path, monkeypatch):
    """The path of a sound archive."""
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    return str(build_archive(make_bundle(), tmp_path / "dist"))


def digest_of(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return state_digest(buffer.getvalue(), "weights")


@pytest.mark.parametrize("kind", TYPES)
def test_digest_of_a_file_is_that_of_its_tensors(kind):
    state = {"module.b": torch.arange(12).reshape(3, 4).to(kind), "a": torch.tensor(1).to(kind), "c": torch.empty(0, 2)}
    assert digest_of(state) == weights_digest(state)


def test_digest_sees_through_views_and_strides():
    base = torch.arange(24.0).reshape(2, 3, 4)
    image = torch.arange(48.0).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {"part": base[1, :, 1:3], "turned": base.permute(2, 0, 1), "image": image, "same": base}
    assert digest_of(state) == weights_digest(state)
    assert digest_of({"a": base}) != digest_of({"a": base + 1})


def test_digest_of_a_network_is_that_of_its_state(make_network):
    network = make_network()
    assert digest_of(network.state_dict()) == weights_digest(network.state_dict())


@pytest.fixture
def make_network():
    return lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))


@pytest.mark.parametrize(
    ("installed", "tested", "accepted"),
    [
        ("2.4.6", ["2.4.6"], True),
        ("2.5.0", ["2.4.6"], True),
        ("2.4.1", ["2.4.6"], True),
        ("2.10.0", ["2.9.1"], True),
        ("2.3.9", ["2.4.6"], False),
        ("3.0.0", ["2.4.6"], False),
        ("1.26.4", ["2.4.6"], False),
        ("1.26.4", ["2.4.6", "1.26.4"], True),
        ("2.13.0+cpu", ["2.13.0"], True),
        ("2.13.0a0+git", ["2.13.0"], True),
        ("unknown", ["1.0"], False),
    ],
)
def test_version_of_the_same_major_and_not_older_is_accepted(installed, tested, accepted):
    assert is_accepted(installed, tested) is accepted


def test_versions_are_compared_as_numbers():
    assert version_numbers("0.10") > version_numbers("0.9.1")


def test_every_package_that_does_not_fit_is_named():
    installed = {"torch": "2.13.0+cpu", "monai": "1.5.2", "numpy": None}
    requires = {"torch": ("2.13.0",), "monai": ("1.6.1",), "numpy": ("2.4.6", "1.26.4")}
    with pytest.raises(ArchiveError) as caught:
        check_versions(requires, "organ.zip", installed=installed.get)
    assert "monai 1.5.2, numpy is missing; install them with 'python -m pip install monai==1.6.1 numpy==2.4.6'" in str(
        caught.value
    )
    assert "torch" not in str(caught.value)
    check_versions({"torch": ("2.13.0",)}, "organ.zip", installed=installed.get)


def test_versions_of_this_environment_are_read(archive, tmp_path, make_bundle):
    verify(archive)
    bundle = make_bundle("strange", where=tmp_path / "more")
    described = bundle / "configs" / "metadata.json"
    described.write_text(described.read_text().replace("2.13.0", "99.0"))
    strange = str(build_archive(bundle, tmp_path))
    with pytest.raises(ArchiveError, match=r"tested with other versions .*: torch 2\.13\.0"):
        verify(strange)
    verify(strange, ignore_versions=True)


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


def test_archive_changed_after_signing_is_refused(archive, tmp_path, write_keys):
    private, public = write_keys(tmp_path / "keys")
    sign(archive, private)
    with open(archive, "ab") as file:
        file.write(b"x")
    with pytest.raises(SignatureError, match="or the archive was changed; do not install it"):
        install(archive, str(tmp_path / "models"), public_key=public)
    assert not (tmp_path / "models").exists()


def test_signature_of_somebody_else_is_refused(archive, tmp_path, write_keys):
    sign(archive, write_keys(tmp_path / "mine")[0])
    with pytest.raises(SignatureError, match="the signature is not by the owner of"):
        verify(archive, public_key=write_keys(tmp_path / "others")[1])


def test_unsigned_archive_is_refused_when_a_key_is_given(archive, tmp_path, write_keys):
    with pytest.raises(MissingDataError, match=r"signature .*organ_v1\.2\.3\.zip\.sig cannot be read"):
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


def test_command_line_of_the_tool(archive, tmp_path, capsys):
    assert main(["verify", archive]) == 0
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine"]) == 0
    assert (tmp_path / "models" / "mine" / "configs" / "train.json").is_file()
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "mine exists" in error
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine", "--replace"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [(["verify", "none.zip"], 1, "error: archive none.zip does not exist"), (["verify"], 2, "file")],
)
def test_command_line_of_the_package(repository, environment, tmp_path, arguments, status, text):
    command = [sys.executable, "-m", "common", *arguments]
    env = environment | {"PYTHONPATH": str(repository)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert text in result.stderr

"""Signs archives by Ed25519: detached, raw, over the bytes of the file, as ``openssl pkeyutl -rawin`` has them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import MissingDataError, SignatureError
from ..runtime.files import write_atomically

logger = logging.getLogger(__name__)

SUFFIX = ".sig"


def write_signature(content: bytes, file: str, private_key: str) -> None:
    """Writes the signature of an archive beside it, as ``<file>.sig``.

    Args:
        content: Bytes of the archive, which were checked.
        file: Path of the archive.
        private_key: Path of an Ed25519 private key in PEM form, without a passphrase.

    Raises:
        MissingDataError: When the key does not exist.
        SignatureError: When the key cannot be used.
        OutputError: When the signature cannot be written.
    """
    key = _load_key(private_key, private=True)
    target = f"{file}{SUFFIX}"
    signature = key.sign(content)
    with write_atomically(target) as temporary:
        temporary.write_bytes(signature)
    logger.info("%s written; give it away beside the archive, and the public key by another way", target)


def check_signature(content: bytes, file: str, public_key: str) -> None:
    """Makes sure that an archive was signed with the private key that belongs to ``public_key``.

    Args:
        content: Bytes of the archive.
        file: Path of the archive; the signature lies beside it, as ``<file>.sig``.
        public_key: Path of an Ed25519 public key in PEM form.

    Raises:
        MissingDataError: When a file does not exist.
        SignatureError: When the key cannot be used, or the signature is not this archive's or not by this key.
    """
    key = _load_key(public_key, private=False)
    if not Path(f"{file}{SUFFIX}").is_file():
        raise MissingDataError(
            f"no signature {file}{SUFFIX} beside the archive; ask whoever sent it, or leave out --public-key"
        )
    signature = _read(f"{file}{SUFFIX}", "signature")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature as error:
        raise SignatureError(
            f"{file}: the signature is not by the owner of {public_key}, or the archive was changed; do not install it"
        ) from error


def _load_key(path: str, *, private: bool) -> Any:
    """An Ed25519 key from a PEM file."""
    content = _read(path, "key")
    kind = "private" if private else "public"
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    except ImportError as error:
        raise SignatureError(
            "signatures need the package cryptography: install it with 'python -m pip install cryptography==50.0.2'"
        ) from error
    try:
        key = load_pem_private_key(content, password=None) if private else load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # What the library says may be long; a passphrase is the only reason of type TypeError.
        reason = "it is protected by a passphrase" if isinstance(error, TypeError) else "it cannot be read"
        raise SignatureError(f"{path} is no usable {kind} key ({reason}); give an Ed25519 key in PEM form") from error
    wanted = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    if not isinstance(key, wanted):
        raise SignatureError(f"{path} is a key of another kind; give an Ed25519 {kind} key in PEM form")
    return key


def _read(path: str, what: str) -> bytes:
    """The content of a file that must exist."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MissingDataError(f"{what} {path} cannot be read ({error.strerror}); check the path") from error

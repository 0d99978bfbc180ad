"""The keys with which an installation signs its bundles: Ed25519, in PEM. Needs `cryptography`."""

import hashlib
import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

_BLOCK = re.compile(rb"-----BEGIN [^-]*-----.*?-----END [^-]*-----", re.DOTALL)


def make() -> tuple[str, str]:
    """A new private key, and its public one."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private.decode(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def write(private: Path, public: Path) -> None:
    """Makes a pair and writes it into new files; FileExistsError. Only the owner may read the private one."""
    if public.exists():
        raise FileExistsError(f"{public} exists")
    made = make()
    for path, text, mode in ((private, made[0], 0o600), (public, made[1], 0o644)):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:  # noqa: PTH123 - a new file's mode
            file.write(text)


def private_key(pem: str) -> Ed25519PrivateKey:
    """ValueError, which does not quote the text, unless it is one."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("expected the private key in PEM that `sightline keys signing` writes")  # noqa: TRY004 - its content
    return key


def public_keys(pem: bytes) -> tuple[Ed25519PublicKey, ...]:
    """The keys of a file with one or several, one after the other; ValueError if it has none or anything else."""
    advice = "expected the public key in PEM that `sightline keys signing` writes, or several one after the other"
    blocks = _BLOCK.findall(pem)
    try:
        keys = [load_pem_public_key(block) for block in blocks]
    except ValueError as error:
        raise ValueError(advice) from error
    found = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
    if not found or len(found) != len(blocks):
        raise ValueError(advice)
    return found


def fingerprint(key: Ed25519PublicKey) -> str:
    """A short name of the key, to compare two places by."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]

"""The pair of keys with which an installation signs its bundles: Ed25519, in PEM. Needs `cryptography`."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


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

"""An installation's signature of a bundle: that one of its trainers made it, for this model. Ed25519."""

import base64
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_CONTEXT = "sightline bundle 1"  # so that a signature of anything else is never one of a bundle


class SigningKeyUnusable(Exception):
    """The key is not one that signs or verifies bundles; the message says what to do."""


class Signer:
    """Signs with the private key; trainer workers have it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def of(cls, pem: str) -> Self | None:
        """The signer, None for an empty key; SigningKeyUnusable."""
        if not pem:
            return None
        try:
            key = load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError) as error:
            raise SigningKeyUnusable(f"SIGHTLINE_SIGNING_KEY: {_advice('private')}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyUnusable(f"SIGHTLINE_SIGNING_KEY: {_advice('private')}")
        return cls(key)

    def sign(self, model: str, digest: str) -> str:
        """The signature of a model's bundle with this digest, in base64."""
        return base64.b64encode(self._key.sign(_signed(model, digest))).decode()


class Verifier:
    """Checks signatures with the public key; predictors have it."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def of(cls, pem: bytes) -> Self:
        """SigningKeyUnusable."""
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise SigningKeyUnusable(f"SIGHTLINE_BUNDLE_KEY: {_advice('public')}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise SigningKeyUnusable(f"SIGHTLINE_BUNDLE_KEY: {_advice('public')}")
        return cls(key)

    def fault(self, model: str, digest: str, signature: str) -> str:
        """Why the bundle is not to be trusted; empty if its signature is valid."""
        if not digest or not signature:
            return "it is not signed, and SIGHTLINE_BUNDLE_KEY is set"
        try:
            self._key.verify(base64.b64decode(signature, validate=True), _signed(model, digest))
        except (InvalidSignature, ValueError):
            return "its signature is not one of this installation's key (SIGHTLINE_BUNDLE_KEY) for this model"
        return ""


def _signed(model: str, digest: str) -> bytes:
    return f"{_CONTEXT}\n{model}\n{digest}".encode()


def _advice(kind: str) -> str:
    return f"expected the {kind} key in PEM that `sightline keys signing` writes"

"""An installation's signature of a bundle: that one of its trainers made it, for this model. Ed25519."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.kit.errors import BundleUnusable
from services.kit.log import Log
from services.kit.telemetry import Telemetry
from services.vision.signatures import BUNDLE_SIGNATURES, SignatureResult, SignatureRule
from sightline.client.signing_keys import fingerprint, private_key, public_keys

_CONTEXT = "sightline bundle 1"  # so that a signature of anything else is never one of a bundle
_WRONG = (
    "its signature is not one of the keys in SIGHTLINE_BUNDLE_KEY for this model; if it is to be trusted, add the key"
    " with which it was signed to that file"
)
_UNSIGNED = (
    "it is not signed, which SIGHTLINE_BUNDLE_SIGNATURES=require refuses; `sightline keys sign-models` signs models of"
    " before, and `accept` allows them meanwhile"
)
_log = Log(__name__)


class SigningKeyUnusable(Exception):
    """The key is not one that signs or verifies bundles, or does not fit the others; the message says what to do."""


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
            return cls(private_key(pem))
        except ValueError as error:
            raise SigningKeyUnusable(f"SIGHTLINE_SIGNING_KEY: {error}") from error

    @property
    def fingerprint(self) -> str:
        """That of its public key."""
        return fingerprint(self._key.public_key())

    def sign(self, model: str, digest: str) -> str:
        """The signature of a model's bundle with this digest, in base64."""
        return base64.b64encode(self._key.sign(_signed(model, digest))).decode()


class Verifier:
    """Checks a bundle's signature before it is used; without keys, or if the rule is `off`, it accepts everything."""

    def __init__(self, keys: Sequence[Ed25519PublicKey], rule: SignatureRule, telemetry: Telemetry) -> None:
        self._keys = () if rule is SignatureRule.OFF else tuple(keys)
        self._rule = rule
        self._telemetry = telemetry

    @classmethod
    def of(cls, file: Path | None, rule: SignatureRule, telemetry: Telemetry) -> Self:
        """With the keys in the file, if any; SigningKeyUnusable, OSError."""
        try:
            return cls(public_keys(file.read_bytes()) if file else (), rule, telemetry)
        except ValueError as error:
            raise SigningKeyUnusable(f"SIGHTLINE_BUNDLE_KEY: {file}: {error}") from error

    def expect(self, signer: Signer | None) -> None:
        """SigningKeyUnusable if it would refuse what is signed with this key, or without one."""
        if not self._keys:
            return
        if signer is None and self._rule is SignatureRule.REQUIRE:
            raise SigningKeyUnusable(
                "SIGHTLINE_SIGNING_KEY is not set, but SIGHTLINE_BUNDLE_SIGNATURES is `require`: what this worker"
                " trains would be refused. Set the key, or `accept`."
            )
        if signer and signer.fingerprint not in map(fingerprint, self._keys):
            raise SigningKeyUnusable(
                f"SIGHTLINE_BUNDLE_KEY lacks the public key {signer.fingerprint} of SIGHTLINE_SIGNING_KEY: what this"
                " worker trains would be refused. Append it to the file, here and where predictors run."
            )

    def check(self, model: str, version: str, digest: str, signature: str) -> None:
        """BundleUnusable unless one of the keys signed this digest for this model, or unsigned bundles are accepted."""
        if not self._keys:
            return
        signed = bool(digest and signature)
        if signed and self._is_valid(model, digest, signature):
            result = SignatureResult.VALID
        elif not signed and self._rule is SignatureRule.ACCEPT:
            result = SignatureResult.UNSIGNED
            _log.warning("bundle_unsigned", name=model, version=version)
        else:
            result = SignatureResult.REFUSED
        self._telemetry.add(BUNDLE_SIGNATURES, result=result)
        if result is SignatureResult.REFUSED:
            raise BundleUnusable(name=model, version=version, problem=_WRONG if signed else _UNSIGNED)

    def _is_valid(self, model: str, digest: str, signature: str) -> bool:
        try:
            raw = base64.b64decode(signature, validate=True)
        except ValueError:
            return False
        return any(_verifies(key, raw, _signed(model, digest)) for key in self._keys)


def _verifies(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _signed(model: str, digest: str) -> bytes:
    """The model's full name and the digest of its `digests.json`, which has the digests of all other files."""
    return f"{_CONTEXT}\n{model}\n{digest}".encode()

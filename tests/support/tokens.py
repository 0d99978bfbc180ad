"""A token issuer for tests: its keys, the JWKS that publishes them, and any token, valid or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.support.certificates import replace

ISSUER, AUDIENCE = "https://issuer.example", "sightline"


class Issuer:
    """Signs tokens with one key, which services know once it is published."""

    def __init__(self, kid: str = "first", bits: int = 2048) -> None:
        self.kid = kid
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=bits)

    @property
    def public_pem(self) -> bytes:
        """The public key in PEM."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as a JWKS lists it."""
        listed: dict[str, Any] = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return listed | {"kid": self.kid, "use": "sig", "alg": "RS256"}

    def token(self, role: object = "admin", *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A valid token, except for the given claims and headers; those that are None are left out."""
        now = int(time.time())
        whole = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, "role": role} | claims
        left = {name: value for name, value in whole.items() if value is not None}
        named = {name: value for name, value in ({"kid": self.kid} | (headers or {})).items() if value is not None}
        return jwt.encode(left, self.key, "RS256", named)


def jwks(*issuers: Issuer) -> bytes:
    """The JWKS of the issuers."""
    return json.dumps({"keys": [issuer.jwk for issuer in issuers]}).encode()


def publish(path: Path, *issuers: Issuer) -> Path:
    """Writes the issuers' JWKS as a file; returns its path."""
    return replace(path, jwks(*issuers))


def settings(path: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a service that accepts the issuer's tokens."""
    return {"auth_jwks": str(path), "auth_issuer": ISSUER, "auth_audience": AUDIENCE} | changes

"""Authentication and authorization: bearer tokens, checked against the table of roles."""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import jwt

from services.infra import projects
from services.infra.jwks import JwksFile, JwksUrl, KeySource, fetcher
from services.infra.static_keys import StaticKeys
from services.kit import callers, names
from services.kit.callers import ALL_PROJECTS, DEFAULT_PROJECT, Caller
from services.kit.clock import SystemClock
from services.kit.errors import PermissionDenied, ProjectDenied, Unauthenticated
from services.kit.masking import masked_urls
from services.kit.roles import OPEN, POLICY, Role, may
from services.kit.settings import Settings
from sightline.client.transport.credentials import check_ca
from sightline.text import fault_of_text

AUTHORIZATION = "authorization"
MAX_TOKEN = 8192  # characters
MAX_NAME = 128  # characters of a subject in logs
MAX_NAMES = 100  # of roles, or projects

Metadata = Iterable[tuple[str, str | bytes]]


class AuthUnusable(Exception):
    """The files that configure authentication cannot be used; the message names the setting."""


class _Refused(Exception):
    """A token is invalid; the message says why, without quoting it."""


class Guard:
    """Admits callers. Law: an rpc that is not in the table is refused to everyone; tokens are never quoted."""

    def __init__(self, keys: StaticKeys | None, tokens: "Tokens | None") -> None:
        self._keys, self._tokens = keys, tokens

    async def admit(self, path: str, metadata: Metadata) -> Caller | None:
        """The caller, None if the rpc is open to all; Unauthenticated, ProjectDenied, PermissionDenied, Unavailable."""
        if path in OPEN:
            return None
        rpc, role = path.rpartition("/")[2][:200], POLICY.get(path)
        caller = _acting(await self._recognize(metadata, rpc, role or "no role"), metadata)
        if role is None or not may(caller.roles, role):
            roles = ", ".join(sorted(caller.roles)) or "none"
            raise PermissionDenied(rpc=rpc, role=role or "that nobody has", caller=caller.subject, roles=roles)
        return caller

    async def recognize(self, what: str, metadata: Metadata) -> Caller:
        """Who sends a request that leads to rpcs, which check the role; Unauthenticated, ProjectDenied, Unavailable."""
        return _acting(await self._recognize(metadata, what, Role.VIEWER), metadata)

    async def _recognize(self, metadata: Metadata, rpc: str, role: str) -> Caller:
        try:
            return await self._caller(_token_of(metadata))
        except _Refused as refusal:
            raise Unauthenticated(rpc=rpc, role=role, problem=str(refusal)) from None

    async def _caller(self, token: str) -> Caller:
        if self._keys and self._keys.takes(token):
            if caller := self._keys.caller(token):
                return caller
            raise _Refused("this key is not among those that the service knows")
        if self._tokens:
            return await self._tokens.caller(token)
        raise _Refused("this token is not a key of the service, which takes keys only")


class Tokens:
    """JSON Web Tokens of one issuer for one audience."""

    def __init__(self, keys: KeySource, settings: Settings) -> None:
        self._keys = keys
        self._issuer, self._audience = settings.auth_issuer, settings.auth_audience
        self._algorithms = frozenset(settings.auth_algorithms.split(","))
        self._leeway_seconds = settings.auth_leeway_seconds
        self._role_claim, self._project_claim = settings.auth_role_claim, settings.auth_project_claim
        self._max_seconds = settings.auth_max_token_seconds

    async def caller(self, token: str) -> Caller:
        """The token's owner. No claim is trusted before the signature is verified."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = str(header.get("alg")), header.get("kid")
            if algorithm not in self._algorithms:
                raise _Refused("the token is signed by an algorithm that the service does not take")
            if not isinstance(kid, str) or not kid:
                raise _Refused("the token does not say (`kid`) which key signed it")
            key = await self._keys.key(kid)
            if key is None:
                raise _Refused("the token is signed by a key that the issuer does not publish")
            claims = self._claims(token, key, algorithm)
            began = claims.get("iat", time.time())
            if claims["exp"] - began > self._max_seconds:
                raise _Refused(f"the token lives longer than the {self._max_seconds:g} s that the service allows")
            if fault := fault_of_text(str(claims["sub"])):
                raise _Refused(f"the token's subject {fault}")
            return Caller(
                subject=str(claims["sub"])[:MAX_NAME],
                roles=_roles(claims, self._role_claim),
                issuer=self._issuer,
                projects=_projects(claims, self._project_claim),
                expires=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, OSError, RecursionError) as error:
            raise _Refused(_words(error)) from None

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        # With a PyJWK the algorithm must be the key's own, so that no key is used for another algorithm.
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway_seconds,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )


def guard_of(settings: Settings) -> Guard | None:
    """The guard for the settings; None if no token is needed. AuthUnusable."""
    if not settings.has_auth:
        return None
    setting = "SIGHTLINE_AUTH_KEYS"
    try:
        keys = StaticKeys(settings.auth_keys) if settings.auth_keys else None
        setting = "SIGHTLINE_AUTH_JWKS"
        tokens = Tokens(_source(settings), settings) if settings.auth_jwks else None
    except (OSError, ValueError) as error:
        names = f"{setting} and SIGHTLINE_AUTH_CA" if settings.auth_ca else setting
        raise AuthUnusable(f"{masked_urls(str(error))}; see {names}") from None
    return Guard(keys, tokens)


def _source(settings: Settings) -> KeySource:
    if settings.auth_jwks.lower().startswith("https://"):
        if settings.auth_ca:
            check_ca(settings.auth_ca, settings.auth_ca.read_bytes())
        return JwksUrl(fetcher(settings.auth_jwks, settings.auth_ca), SystemClock())
    return JwksFile(Path(settings.auth_jwks))


def _token_of(metadata: Metadata) -> str:
    values = [value for name, value in metadata if name == AUTHORIZATION]
    if not values:
        raise _Refused("the call has none")
    value = values[0]
    scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise _Refused("the call's `authorization` is not `Bearer TOKEN`")
    if len(token) > MAX_TOKEN:
        raise _Refused(f"it is longer than {MAX_TOKEN} characters")
    return token.strip()


def _acting(caller: Caller, metadata: Metadata) -> Caller:
    """The caller in the project where the call acts; ProjectDenied.

    The audit has both of a call that is refused, too: its project is the only one of the token, or else none, until it
    is known where the call acts.
    """
    held = caller.projects - {ALL_PROJECTS}
    only = next(iter(held)) if len(caller.projects) == len(held) == 1 else ""
    callers.current.set(replace(caller, project=only))
    acting = replace(caller, project=_project_of(caller, projects.asked(metadata)))
    callers.current.set(acting)
    return acting


def _project_of(caller: Caller, asked: str) -> str:
    """Where the call acts; ProjectDenied. The answer is the same whether a project has resources or not."""
    held = caller.projects
    if asked:
        if asked in held or ALL_PROJECTS in held:
            return asked
        raise ProjectDenied(caller=caller.subject, problem=f"is not valid for the project {asked}")
    if len(held) == 1 and ALL_PROJECTS not in held:
        return next(iter(held))
    if held & {DEFAULT_PROJECT, ALL_PROJECTS}:
        return DEFAULT_PROJECT
    which = f"choose one of {', '.join(sorted(held))}" if held else "it has no project"
    raise ProjectDenied(caller=caller.subject, problem=f"is not valid for the project {DEFAULT_PROJECT}: {which}")


def _roles(claims: dict[str, Any], claim: str) -> frozenset[Role]:
    """The roles in the claim; names of other systems are ignored."""
    return frozenset(Role(name) for name in _named(claims, claim) if name in set(Role))


def _projects(claims: dict[str, Any], claim: str) -> frozenset[str]:
    """The projects in the claim; `default` for a token without it, or if no claim is set."""
    if not claim or _value(claims, claim) is None:
        return frozenset({DEFAULT_PROJECT})
    return frozenset(name for name in _named(claims, claim) if name == ALL_PROJECTS or names.is_project(name))


def _named(claims: dict[str, Any], claim: str) -> list[str]:
    """The text, or list of texts, in the claim."""
    value = _value(claims, claim)
    named = [value] if isinstance(value, str) else cast("list[Any]", value) if isinstance(value, list) else []
    return [name for name in named[:MAX_NAMES] if isinstance(name, str)]


def _value(claims: dict[str, Any], claim: str) -> Any:
    """The claim: a name, or a path through objects."""
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for step in claim.split("."):
            value = cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    return value


def _words(error: Exception) -> str:
    """Why a token is invalid, in our own words: the library's may quote the token."""
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    return "the token is malformed"


_WORDS: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidIssuerError: "the token is of another issuer",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.MissingRequiredClaimError: "the token lacks one of the claims exp, iss, aud and sub",
    jwt.InvalidSignatureError: "the token's signature is invalid",
    jwt.InvalidAlgorithmError: "the token's algorithm is not that of its key",
    jwt.InvalidKeyError: "the key that the issuer publishes for it is too short",
}

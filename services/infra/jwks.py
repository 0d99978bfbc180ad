"""The public keys of tokens: a JWKS in a file, or at a url."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import jwt
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from services.kit.clock import Clock
from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.masking import masked_urls
from sightline.client.transport.reloading import ReloadingFiles

MAX_BYTES = 1 << 20
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 300.0  # after which keys are fetched again, while the known ones stay in use
KEEP_SECONDS = 24 * 3600.0  # how long they stay in use if the url does not answer; bounds a withdrawn key's life
RETRY_SECONDS = 30.0  # between requests, whatever unknown keys callers present

Keys = Mapping[str, jwt.PyJWK]
Fetch = Callable[[], Awaitable[bytes]]

_log = Log(__name__)


class KeySource(Protocol):
    """Where keys come from."""

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """The key of that id, if there is one; Unavailable if that is unknown because the source does not answer."""
        ...


class JwksFile:
    """Keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """ValueError or OSError if the file cannot be used."""
        self._watched = ReloadingFiles(
            [path], lambda contents: parse(contents[0]), lambda error: _log.error("auth_jwks_unusable", error)
        )

    async def key(self, kid: str) -> jwt.PyJWK | None:
        return self._watched.get().get(kid)


class JwksUrl:
    """Keys at a url, fetched when first needed, then refreshed in the background.

    Law: at most one request at a time, and one per RETRY_SECONDS. For an unknown key they are fetched again, within
    that rate; a known key is returned at once, for up to KEEP_SECONDS after it was last fetched.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch, self._clock = fetch, clock
        self._keys: Keys = {}
        self._fetched = self._asked = -float("inf")
        self._request: asyncio.Task[None] | None = None

    async def key(self, kid: str) -> jwt.PyJWK | None:
        now = self._clock.monotonic()
        if now - self._fetched > KEEP_SECONDS:
            self._keys = {}
        found = self._keys.get(kid)
        if found is None:
            await self._renew(now)
            found = self._keys.get(kid)
        elif now - self._fetched > REFRESH_SECONDS:
            self._begin(now)
        if found is None and self._fetched < self._asked:
            raise Unavailable(what="The issuer of tokens", problem="its keys could not be fetched")
        return found

    async def _renew(self, now: float) -> None:
        if request := self._begin(now):
            await asyncio.shield(request)  # other calls wait for it too

    def _begin(self, now: float) -> asyncio.Task[None] | None:
        """The request in flight, or a new one if it is due."""
        if self._request and not self._request.done():
            return self._request
        if now - self._asked < RETRY_SECONDS:
            return None
        self._asked = now
        self._request = asyncio.create_task(self._load(), name="fetch jwks")
        return self._request

    async def _load(self) -> None:
        try:
            keys = parse(await self._fetch())
        except (OSError, ValueError, HTTPError) as error:  # whose traceback could quote the url
            problem = masked_urls(f"{type(error).__name__}: {error}")
            _log.error("auth_jwks_unreachable", problem=problem, keys_kept=len(self._keys))
            return
        self._keys, self._fetched = keys, self._clock.monotonic()


def fetcher(url: str, ca: Path | None) -> Fetch:
    """Fetches the url in a thread; follows no redirects and reads at most MAX_BYTES."""
    pool = PoolManager(maxsize=1, timeout=Timeout(total=FETCH_SECONDS), retries=False, ca_certs=str(ca) if ca else None)

    def fetch() -> bytes:
        response = pool.request(
            "GET", url, redirect=False, preload_content=False, headers={"Accept": "application/json"}
        )
        try:
            if response.status != 200:
                raise ValueError(f"{masked_urls(url)} answers with status {response.status}")
            body = response.read(MAX_BYTES + 1)
        finally:
            response.close()
        if len(body) > MAX_BYTES:
            raise ValueError(f"{masked_urls(url)} answers with more than {MAX_BYTES} bytes")
        return body

    return lambda: asyncio.to_thread(fetch)


def parse(content: bytes) -> Keys:
    """The keys by id, without those that have no id, sign nothing, or are secret. ValueError if it is not a JWKS."""
    try:
        listed: Any = json.loads(content)
        keys = cast("list[Any]", listed["keys"])
        found = {key["kid"]: key for key in keys if _is_public(key)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"that is not a JWKS ({type(error).__name__}: {error})") from None
    parsed: dict[str, jwt.PyJWK] = {}
    for kid, key in found.items():
        try:
            parsed[kid] = jwt.PyJWK(key)
        except (jwt.PyJWTError, NotImplementedError) as error:  # the latter for the algorithm `none`
            _log.warning("auth_jwk_left_out", kid=kid[:100], problem=str(error))
    if not parsed:
        raise ValueError("that JWKS has no public key with a `kid`")
    return parsed


def _is_public(key: Any) -> bool:
    fits = key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP")
    return fits and "d" not in key and isinstance(key.get("kid"), str) and bool(key["kid"])

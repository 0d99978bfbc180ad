"""What a browser holds for the studio: the token, the project, and the secret behind the CSRF token."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response

from services.gateway.auth import AUTHORIZATION, PROJECT, metadata_of
from services.gateway.origins import is_of_another_site
from services.gateway.upstream import Metadata

PREFIX = "/studio"
TOKEN_COOKIE, PROJECT_COOKIE, SECRET_COOKIE = "sightline-token", "sightline-project", "sightline-secret"
MAX_TOKEN = 3900  # what browsers keep in a cookie
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=:-]{{1,{MAX_TOKEN}}}")  # what RFC 6750 lets a token be


@dataclass(frozen=True, slots=True)
class Cookies:
    """The cookies of one request."""

    token: str
    project: str
    secret: str

    @classmethod
    def of(cls, headers: Headers) -> "Cookies":
        """Those that were sent; empty texts for others."""
        found = cookie_parser(headers.get("cookie", ""))
        return cls(*(found.get(name, "") for name in (TOKEN_COOKIE, PROJECT_COOKIE, SECRET_COOKIE)))

    @property
    def csrf(self) -> str:
        """What a page of this browser repeats with each change; another site can neither read nor guess it."""
        return hmac.new(self.secret.encode(), b"csrf " + self.token.encode(), hashlib.sha256).hexdigest()

    def metadata(self, headers: Headers) -> Metadata:
        """The token and project as metadata of an rpc; headers, where a client sends them, win."""
        found = dict(metadata_of(headers))
        if self.token and AUTHORIZATION not in found:
            found[AUTHORIZATION] = f"Bearer {self.token}"
        if self.project and PROJECT not in found:
            found[PROJECT] = self.project
        return tuple(found.items())


def is_token(text: str) -> bool:
    """Whether a cookie can hold it."""
    return bool(_TOKEN.fullmatch(text))


def new_secret() -> str:
    """A secret for the CSRF token."""
    return secrets.token_urlsafe(32)


def is_foreign(headers: Headers, cookies: Cookies, csrf: str) -> bool:
    """Whether the request was sent by anything but a page of this browser's studio."""
    known = cookies.secret and hmac.compare_digest(cookies.csrf.encode(), csrf.encode())
    return not known or is_of_another_site(headers)


def keep(response: Response, name: str, value: str, *, secure: bool) -> None:
    """Sets a cookie until the browser is closed, which no script and no other site gets."""
    response.set_cookie(name, value, path=PREFIX, secure=secure, httponly=True, samesite="strict")


def forget(response: Response) -> None:
    """Removes the token, the project and the secret."""
    for name in (TOKEN_COOKIE, PROJECT_COOKIE, SECRET_COOKIE):
        response.delete_cookie(name, path=PREFIX, httponly=True, samesite="strict")

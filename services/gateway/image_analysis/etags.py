"""ETags: a resource's revision, quoted as HTTP wants it."""

import re

from services.gateway.exchange import Exchange

_ETAG = re.compile(r'(?:W/)?"([^"]*)"|([^\s",]+)')


def quoted(etag: str) -> dict[str, str]:
    """The header of a response."""
    return {"etag": f'"{etag}"'} if etag else {}


def condition(exchange: Exchange, current: str) -> str:
    """The revision that the request's `If-Match` asks for, empty if any will do.

    Of several, the current one if it is among them.
    """
    header = exchange.request.headers.get("if-match", "").strip()
    if header in ("", "*"):
        return ""
    named = [one or other for one, other in _ETAG.findall(header)]
    return current if current in named else next(filter(None, named), "none")

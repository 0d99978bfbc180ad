"""Lists by `skip` and `top`, over lists that page by token."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from services.gateway.exchange import MAX_INT32, Exchange, whole_number
from services.gateway.image_analysis.errors import BadArgument

MAX_TOP, TOP = 30, 10
PAGE = 1000  # the most that a service sends at once
T = TypeVar("T")
Fetch = Callable[[str], Awaitable[tuple[list[T], str]]]  # a page token to a page, and the next token


async def listed(exchange: Exchange, fetch: Fetch[T], shown: Callable[[T], dict[str, Any]]) -> Response:
    """A page of the list: `value`, and `nextLink` if there is more."""
    skip, top = _number(exchange, "skip", 0, 0, MAX_INT32), _number(exchange, "top", TOP, 1, MAX_TOP)
    found = await _window(fetch, skip, top + 1)
    answer: dict[str, Any] = {"value": [shown(item) for item in found[:top]]}
    if len(found) > top:
        kept = {name: value for name, value in exchange.request.query_params.items() if name.lower() not in _OWN}
        query = urlencode(kept | {"skip": skip + top, "top": top})
        answer["nextLink"] = str(exchange.request.url.replace(query=query))
    return JSONResponse(answer)


_OWN = ("skip", "top")


async def _window(fetch: Fetch[T], skip: int, count: int) -> list[T]:
    """So many items after the first `skip`."""
    found: list[T] = []
    token, passed = "", 0
    while len(found) < count:
        items, token = await fetch(token)
        found += items[max(0, skip - passed) :]
        passed += len(items)
        if not token:
            break
    return found[:count]


def _number(exchange: Exchange, name: str, default: int, least: int, most: int) -> int:
    text = exchange.query(name)
    number = whole_number(text, most, least=least) if text else default
    if number is None:
        raise BadArgument(field=name, problem=f"it must be a whole number from {least} to {most}")
    return number

"""Pages of a list: an opaque token says after which name the next page starts."""

import base64
import binascii
from collections.abc import Iterable
from typing import Protocol, TypeVar

from services.kit.errors import InvalidPageToken, InvalidRequest
from services.kit.records import Versioned

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Named(Protocol):
    """Anything with a resource name."""

    @property
    def name(self) -> str:
        """The resource's name."""
        ...


T = TypeVar("T", bound=Named)


def check_page_size(page_size: int) -> int:
    """The effective size: the default for 0, at most the maximum; InvalidRequest if it is negative."""
    if page_size < 0:
        raise InvalidRequest(field="page_size", problem=f"{page_size} is negative; leave it 0 for {DEFAULT_PAGE_SIZE}.")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(scope: str, after: str) -> str:
    """A token that continues the list `scope` after the key `after`."""
    return base64.urlsafe_b64encode(f"{scope}\n{after}".encode()).decode()


def decode_token(scope: str, token: str) -> str:
    """The key after which the page starts, "" for the first page; InvalidPageToken for another list's token."""
    if not token:
        return ""
    try:
        found, _, after = base64.urlsafe_b64decode(token.encode()).decode().partition("\n")
    except (binascii.Error, ValueError):
        raise InvalidPageToken(token=token) from None
    if found != scope or not after:
        raise InvalidPageToken(token=token)
    return after


def page(items: Iterable[T], scope: str, page_size: int, page_token: str) -> tuple[list[T], str]:
    """One page, ordered by name, and the next page's token ("" after the last).

    An item created or deleted between two pages may or may not appear; every other appears exactly once.
    """
    size = check_page_size(page_size)
    after = decode_token(scope, page_token)
    rest = sorted((item for item in items if item.name > after), key=lambda item: item.name)
    chosen = rest[:size]
    return chosen, encode_token(scope, chosen[-1].name) if len(rest) > size else ""


def page_of(
    found: Iterable[Versioned[T]], scope: str, page_size: int, page_token: str
) -> tuple[list[Versioned[T]], str]:
    """The same of resources with their revisions."""
    versions = {version.value.name: version for version in found}
    values, token = page((version.value for version in versions.values()), scope, page_size, page_token)
    return [versions[value.name] for value in values], token

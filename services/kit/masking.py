"""Hides the secrets in urls."""

import re

MASK = "**********"
_USER = re.compile(r"(?<=://)[^/?#,\"\s]*@")
_QUERY = re.compile(r"(\w://[^?#\"\s]*)[?#][^\"\s]*")


def masked_urls(text: str) -> str:
    """The text without what the urls in it have as user, password, query and fragment."""
    return _QUERY.sub(rf"\1?{MASK}", _USER.sub(f"{MASK}@", text))

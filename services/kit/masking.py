"""Hides the secrets in urls."""

import re

MASK = "**********"
_USER = re.compile(r"(?<=://)[^/?#,\"\s]*@")
_QUERY = re.compile(r"(\w://[^?#\"\s]*)[?#][^\"\s]*")
_PARAMETERS = re.compile(r"(\w://[^?#\"'\s]*)[?#][^=\"'\s]*=[^\"'\s]*")  # a file's name may have ? and #


def masked_urls(text: str) -> str:
    """The text without what the urls in it have as user, password, query and fragment."""
    return _QUERY.sub(rf"\1?{MASK}", _USER.sub(f"{MASK}@", text))


def without_credentials(text: str) -> str:
    """The text without what the uris in it have as user, password and parameters, such as the signature of a presigned
    one; for texts of callers, in whose uris a `?` or `#` may be part of a name.
    """
    return _PARAMETERS.sub(rf"\1?{MASK}", _USER.sub(f"{MASK}@", text)) if "://" in text else text

"""Which pages of a browser a request may come from."""

from starlette.datastructures import Headers


def is_of_another_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sent the request; what is no browser says nothing."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin", "")
    ours = site in ("same-origin", "none") and (not origin or origin.partition("://")[2] == headers.get("host", ""))
    return not ours

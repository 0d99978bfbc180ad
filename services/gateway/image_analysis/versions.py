"""The versions of this API, which a request names in its query."""

from services.gateway.exchange import Exchange
from services.gateway.image_analysis.errors import BadArgument

FIRST = "2023-02-01-preview"
CUSTOMIZATION = (FIRST, "2023-04-01-preview")
ANALYSIS = (*CUSTOMIZATION, "2023-10-01", "2024-02-01")


def version_of(exchange: Exchange, known: tuple[str, ...] = CUSTOMIZATION) -> str:
    """The request's version, by default the last that customizes models; BadArgument for one that is not served."""
    asked = exchange.query("api-version") or CUSTOMIZATION[-1]
    if asked not in known:
        raise BadArgument(field="api-version", problem=f"{asked[:40]} is not served; use one of {', '.join(known)}")
    return asked

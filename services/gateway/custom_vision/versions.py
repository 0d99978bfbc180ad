"""The versions of this API that are served."""

from services.gateway.custom_vision.errors import BadRequest
from services.gateway.exchange import Exchange

PREDICTION = ("v3.0", "v3.1")
TRAINING = ("v3.3", "v3.4-preview")


def check_version(exchange: Exchange, known: tuple[str, ...] = TRAINING) -> None:
    """BadRequest for another version."""
    if (version := exchange.path("version")) not in known:
        raise BadRequest(field="version", problem=f"{version[:40]} is not served; use one of {', '.join(known)}")

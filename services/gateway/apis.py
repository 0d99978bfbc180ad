"""The APIs that the gateway serves."""

from services.gateway.custom_vision.routes import custom_vision
from services.gateway.image_analysis.routes import IMAGE_ANALYSIS
from services.gateway.operations import Api


def served() -> tuple[Api, ...]:
    """All of them."""
    return (IMAGE_ANALYSIS, custom_vision())

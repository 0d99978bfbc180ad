"""The APIs that the gateway serves."""

from services.gateway.image_analysis.routes import IMAGE_ANALYSIS

ALL = (IMAGE_ANALYSIS,)

"""Every target, registered by the modules that have them."""

from tests.fuzz import bundles, calls, exports, formats, images, names
from tests.fuzz.target import TARGETS, Broken, run

__all__ = ["TARGETS", "Broken", "bundles", "calls", "exports", "formats", "images", "names", "run"]

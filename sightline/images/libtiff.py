"""libtiff, which decodes TIFFs for Pillow, as far as Pillow gives no access to it."""

import ctypes
from functools import cache

from PIL import Image


@cache
def silence() -> None:
    """From now on libtiff writes nothing to standard error in this process; what fails is an exception anyway.

    Does nothing where Pillow's libtiff cannot be reached, as in a static build.
    """
    if library := _library():
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def decodes(compression: int) -> bool:
    """Whether this libtiff can unpack the compression, a value of tag 259; True where it cannot be asked."""
    library = _library()
    return library is None or bool(library.TIFFIsCODECConfigured(ctypes.c_uint16(compression)))


@cache
def _library() -> ctypes.CDLL | None:
    """Pillow's own extension, through which the symbols of the libraries that it is linked to are found."""
    try:
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler", "TIFFIsCODECConfigured"):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return library

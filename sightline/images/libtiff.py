"""The functions of libtiff, Pillow's TIFF decoder, that Pillow does not expose."""

import ctypes
from functools import cache

from PIL import Image


@cache
def silence() -> None:
    """Stops libtiff from writing to this process's standard error; failures are exceptions anyway.

    Does nothing if Pillow's libtiff cannot be accessed, as in a static build.
    """
    if library := _library():
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def decodes(compression: int) -> bool:
    """Whether this libtiff can decode the compression, a value of tag 259; True if libtiff cannot be accessed."""
    library = _library()
    return library is None or bool(library.TIFFIsCODECConfigured(ctypes.c_uint16(compression)))


@cache
def _library() -> ctypes.CDLL | None:
    """Pillow's extension module, which gives access to the symbols of the libraries it is linked to."""
    try:
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler", "TIFFIsCODECConfigured"):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return library

"""What a file is that is no image of an accepted format, by how it begins."""

from sightline.images.upright import FORMATS

COPY = "replace it with an intact copy"
CONVERT = f"convert it to one of {', '.join(FORMATS)}"

_DEVELOP = "develop it with a raw converter and save it as JPEG or PNG"
_FRAME = f"save a single frame of it as one of {', '.join(FORMATS)}"
_EXTRACT = "extract it and use the images in it"
_AGAIN = "copy the original again, as a binary file"
_PNG_AS_TEXT = (  # with other line ends, or in another encoding
    *(b"\x89PNG\n\x1a\n", b"\x89PNG\n\n\x1a\n", b"\x89PNG\r\n\x1a\r\n", b"\x89PNG\r\r\n"),
    *(b"\xef\xbf\xbdPNG", b"\xc2\x89PNG", b"\tPNG\r\n\x1a\n"),
)
_BRANDS = (  # of ISO media files, from the most specific one
    ((b"avif", b"avis"), f"an AVIF image; {CONVERT}"),
    ((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), f"a HEIC image; {CONVERT}"),
    ((b"crx ",), f"a camera raw file (CR3); {_DEVELOP}"),
    ((b"jp2 ", b"jpx ", b"jpm "), f"a JPEG 2000 image; {CONVERT}"),
    ((b"jxl ",), f"a JPEG XL image; {CONVERT}"),
)
_MARKS = (  # offset, mark, what the file is and what to do
    (4, b"jP  ", f"a JPEG 2000 image; {CONVERT}"),
    (0, b"\xff\x4f\xff\x51", f"a JPEG 2000 image; {CONVERT}"),
    (4, b"JXL ", f"a JPEG XL image; {CONVERT}"),
    (0, b"\xff\x0a", f"a JPEG XL image; {CONVERT}"),
    (0, b"II\xbc", f"a JPEG XR image; {CONVERT}"),
    (0, b"FUJIFILMCCD-RAW", f"a camera raw file (RAF); {_DEVELOP}"),
    (0, b"IIRO", f"a camera raw file (ORF); {_DEVELOP}"),
    (0, b"IIRS", f"a camera raw file (ORF); {_DEVELOP}"),
    (0, b"MMOR", f"a camera raw file (ORF); {_DEVELOP}"),
    (0, b"IIU\0", f"a camera raw file (RW2); {_DEVELOP}"),
    (0, b"FOVb", f"a camera raw file (X3F); {_DEVELOP}"),
    (0, b"\0MRM", f"a camera raw file (MRW); {_DEVELOP}"),
    (6, b"HEAPCCDR", f"a camera raw file (CRW); {_DEVELOP}"),
    (0, b"8BPS", f"a Photoshop document; {CONVERT}"),
    (0, b"gimp xcf", f"a GIMP document; {CONVERT}"),
    (0, b"v/1\x01", f"an OpenEXR image; {CONVERT}"),
    (0, b"#?R", f"a Radiance HDR image; {CONVERT}"),
    (0, b"DDS ", f"a DDS texture; {CONVERT}"),
    (0, b"icns", f"a macOS icon; {CONVERT}"),
    (0, b"qoif", f"a QOI image; {CONVERT}"),
    (0, b"BPG\xfb", f"a BPG image; {CONVERT}"),
    (0, b"SIMPLE  =", f"a FITS image; {CONVERT}"),
    *((0, mark, f"a PNG that was copied as text, which changed its bytes; {_AGAIN}") for mark in _PNG_AS_TEXT),
    (0, b"%PDF", f"a PDF document; {CONVERT}"),
    (0, b"%!PS", f"a PostScript document; {CONVERT}"),
    (0, b"\xd0\xcf\x11\xe0", f"an Office document; {_EXTRACT}"),
    (128, b"DICM", f"a DICOM file; {CONVERT}"),
    (0, b"\x1aE\xdf\xa3", f"a video; {_FRAME}"),
    (0, b"\0\0\1\xba", f"a video; {_FRAME}"),
    (0, b"\0\0\1\xb3", f"a video; {_FRAME}"),
    (0, b"FLV\1", f"a video; {_FRAME}"),
    (0, b"0&\xb2u", f"a video; {_FRAME}"),
    (8, b"AVI ", f"a video; {_FRAME}"),
    (8, b"WAVE", "a sound file; replace it with an image"),
    *((4, kind, f"a video; {_FRAME}") for kind in (b"ftyp", b"moov", b"mdat", b"wide")),
    (0, b"PK\3\4", f"a ZIP archive; {_EXTRACT}"),
    (0, b"\x1f\x8b", f"a gzip archive; {_EXTRACT}"),
    (0, b"Rar!", f"a RAR archive; {_EXTRACT}"),
    (0, b"7z\xbc\xaf", f"a 7z archive; {_EXTRACT}"),
    (0, b"\x93NUMPY", f"a NumPy array; {CONVERT}"),
    (0, b"\x89HDF", f"an HDF5 file; {CONVERT}"),
    (0, b"\0\5\x16\7", "what macOS stores beside a file (a name that begins with `._`), not the file; leave it out"),
    (0, b"\0\5\x16\0", "what macOS stores beside a file, not the file itself; leave it out"),
)
_TEXTS = (  # how text files begin, in lower case
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
    (b"<!doctype html", "a web page, not an image; download the image itself"),
    (b"<html", "a web page, not an image; download the image itself"),
    (b"<head", "a web page, not an image; download the image itself"),
    (b"<svg", f"an SVG drawing; {CONVERT}"),
    (b"data:image", "text with an image in Base64; decode it and save the image itself"),
    (b"/9j/", "text with an image in Base64; decode it and save the image itself"),
    (b"ivborw0kggo", "text with an image in Base64; decode it and save the image itself"),
)
_PEEKED = 1_024  # bytes of a text


def what_it_is(data: bytes) -> str:
    """What a file is that begins like no accepted format, as a predicate: `is a HEIC image; convert it to ...`."""
    if not data:
        return "is empty: it has 0 bytes; upload it again"
    if not data.strip(b"\0"):
        return f"contains only zeros; {COPY}"
    if data[4:8] == b"ftyp":
        length = int.from_bytes(data[:4], "big")
        brands = {data[at : at + 4] for at in (8, *range(16, min(length, 256), 4))}
        for marks, what in _BRANDS:
            if brands & set(marks):
                return f"is {what}"
    for place, mark, what in _MARKS:
        if data.startswith(mark, place):
            return f"is {what}"
    return _text(data[:_PEEKED]) or f"is not in an accepted format; {CONVERT}"


def _text(beginning: bytes) -> str:
    """What a text is; empty if these bytes are no text."""
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text.lower()
    for mark, what in _TEXTS:
        if lower.startswith(mark):
            return f"is {what}"
    if lower.startswith((b"<?xml", b"<!--")):
        if b"<svg" in lower:
            return f"is an SVG drawing; {CONVERT}"
        if b"<html" in lower:
            return "is a web page, not an image; download the image itself"
        return f"is an XML document, not an image; {COPY}"
    printable = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in text)
    return f"is text, not an image; replace it with one of {', '.join(FORMATS)}" if text and printable else ""

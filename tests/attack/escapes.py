"""Names and uris that lead out of where they belong, by combination: each way of writing in each place."""

from __future__ import annotations

from itertools import chain, product
from urllib.parse import quote

OTHER = "projects/beta"  # a project whose data callers must not reach
SECRET = "uploads/u/secret.txt"  # there, in the default project, and beside the store

# Ways up, or out of a component: as they are, percent-encoded once and twice, in other characters that some software
# takes for dots and slashes, and cut off by a null byte.
UP = (
    "..",
    "../..",
    "..\\..",
    "....//....",
    "..;",
    ".../...",
    *(quote(text, safe="").replace(".", "%2e") for text in ("..", "../..", "..\\..")),
    "%252e%252e%252f",
    "%c0%ae%c0%ae%c0%af",
    "%u002e%u002e%u2215",
    "\u2025",  # two dot leader
    "\uff0e\uff0e\uff0f",  # full width
    "..\u2215..",  # division slash
    "..\u29f8..",
    "..\u200b",  # zero width
    "\u202e..",  # right to left
    "..\0",
    "\0/..",
    ".\n.",
    "..\r\n",
    "..\t",
    ".. ",
)
# What a component may be taken for by stores, brokers, shells, filesystems and databases.
WORDS = (
    "",
    ".",
    "/",
    "//",
    "*",
    ">",
    "$JS.API",
    "~root",
    "$HOME",
    "`id`",
    "$(id)",
    "{}",
    "%s%n",
    "-rf",
    "CON",
    "nul.txt",
    "a:b",
    "a|b",
    "a;b",
    "a'b",
    'a"b',
    "a\\b",
    "a\0b",
    "a b",
    " a",
    "a.",
    "=",
    "=2e=2e",
    "@",
    "m@../x",
    "e\u0301",
    "\u0130",  # its lower case has two characters
    "\ufeffa",
    "\U0001f600",
    "a" * 256,
    "a" * 5000,
    "/" * 300,
    ".sightline-tmp",
    ".sightline-files",
    "KV_sightline_records",
    "passwd",
    "/etc/passwd",
    "C:\\windows\\win.ini",
    "\\\\host\\share",
    "proc/self/environ",
)
COLLECTIONS = (
    "",
    "datasets/",
    "models/",
    "models/m/evaluations/",
    "batchPredictions/",
    "uploads/",
    f"{OTHER}/datasets/",
)
WAYS_TO_OTHERS = (f"{OTHER}/{SECRET}", f"{OTHER}/datasets/pets", SECRET, "secret.txt", "outside.txt", "etc/passwd")

SCHEMES = (
    "s3://",
    "S3://",
    "s3:",
    "s3:///",
    "s3:/\\",
    "file://",
    "file:",
    "http://",
    "https://",
    "gs://",
    "abfss://",
    "",
)
HOSTS = (
    "sightline",
    "other",
    "SIGHTLINE",
    "sightline.",
    "sightline:443",
    "me:pw@sightline",
    "",
    "169.254.169.254",
    "..",
)


def _distinct(texts: chain[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


NAMES = _distinct(
    chain(
        (f"{before}{word}" for before, word in product(COLLECTIONS, WORDS)),
        (
            f"{before}{up}/{to}"
            for before, up, to in product(("", "datasets/", "models/m/"), UP, ("x", WAYS_TO_OTHERS[0]))
        ),
        (f"datasets/pets/{up}" for up in UP),
    )
)
URIS = _distinct(
    chain(
        (f"{scheme}{host}/{SECRET}" for scheme, host in product(SCHEMES, HOSTS)),
        (
            f"s3://sightline/{OTHER}/{SECRET}{after}"
            for after in ("", "/", "?", "#", "\0", "%00", "/.", "/../secret.txt")
        ),
        (f"s3://sightline/projects/acme/uploads/pets/{up}/{to}" for up, to in product(UP, WAYS_TO_OTHERS)),
        (f"s3://sightline/{up}/{to}" for up, to in product(UP[:6], WAYS_TO_OTHERS)),
    )
)

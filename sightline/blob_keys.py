"""Which keys the blob store accepts: the same ones in a folder, in S3 and in the client, checked here only."""

from sightline.text import fault_of_text

RESERVED = ".sightline-tmp"  # the folder where a store on disk writes blobs before they are complete
MAX_KEY_BYTES = 1024  # S3's limit
MAX_PART_BYTES = 255  # the limit of file systems


def fault_of_key(key: str) -> str:
    """What is wrong with a key, as a predicate without a full stop (`has a backslash`); empty for a legal one."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    parts = encoded.split(b"/")
    if "\\" in key:
        return "has a backslash; use / as separator"
    if fault := fault_of_text(key):
        return fault
    if len(encoded) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    if any(part in (b"", b".", b"..") for part in parts):
        return "is absolute, or has an empty, '.' or '..' part"
    if max(map(len, parts)) > MAX_PART_BYTES:
        return f"has a part of more than {MAX_PART_BYTES} bytes between two /"
    if key.partition("/")[0] == RESERVED:
        return f"begins with {RESERVED}, which the store keeps for itself"
    return ""

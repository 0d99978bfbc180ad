"""Bytes that are not what is expected are a ValueError, whatever they are."""

import msgspec
import pytest

from services.kit import codec
from services.kit.jobs import Job
from services.vision.card import read_card
from services.vision.sealing import BundleCorrupt, names_of
from services.vision.snapshot import read_groups, read_index, read_manifest

DEEP = b'{"extra": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "read", [read_card, read_manifest, read_index, read_groups, lambda data: codec.decode(data, Job)]
)
def test_json_that_is_nested_too_deeply_is_refused_like_any_other(read):
    with pytest.raises(ValueError, match="nested too deeply"):
        read(DEEP)


def test_msgpack_that_is_nested_too_deeply_is_refused_like_any_other():
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.unpack(b"\x91" * 100_000 + b"\x01", list)
    assert codec.unpack(msgspec.msgpack.encode([1]), list) == [1]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../card.json", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb", "x" * 300]
)
def test_a_bundle_names_files_beside_its_digests_only(name: str):
    listed = msgspec.json.encode({"weights.safetensors": "0", "card.json": "0", name: "0"})
    with pytest.raises(BundleCorrupt, match="not a file beside it"):
        names_of(listed)

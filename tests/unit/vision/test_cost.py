"""Costs from headers: right about sizes and scans, and no less than what decoding was measured to take."""

import struct
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vision.cost import MAX_ENTRIES, Cost, cost_of
from services.vision.decode_messages import Decode, Request
from services.vision.decode_process import Template
from tests.support.hostile_images import giants, jpeg_of_scans, progressive_giant

SIDE = 2_000
FORMATS = tuple(giants(64))


@cache
def files() -> dict[str, bytes]:
    return giants(SIDE)


@pytest.mark.parametrize("form", FORMATS)
def test_the_header_tells_the_size(form: str) -> None:
    cost = cost_of(files()[form])
    assert (cost.width, cost.height) == (SIDE, SIDE)


def test_no_format_takes_more_memory_than_estimated_or_much_less() -> None:
    template = Template()
    try:
        nothing = _resident_bytes(template, giants(64)["PNG"])
        for form, data in files().items():
            taken, estimated = _resident_bytes(template, data) - nothing, cost_of(data).peak_bytes()
            assert taken < estimated + (4 << 20), (form, taken, estimated)
            assert estimated < 4 * taken, (form, taken, estimated)
    finally:
        template.close()


def _resident_bytes(template: Template, data: bytes) -> int:
    """The most that a fresh process has resident; the file and the result are in the shared memory."""
    child = template.fork()
    child.ask(Request(Decode((SIDE,)), "image", len(data), 1 << 30, 60), data, lambda answer, buffer: None)
    ended = child.end()
    child.close()
    return ended.resident_bytes


@pytest.mark.parametrize("scans", [6, 40, 2_006])
def test_scans_are_counted_up_to_the_limit(scans: int) -> None:
    assert cost_of(jpeg_of_scans(64, scans), max_scans=50).scans == min(scans, 51)


def test_a_scan_hidden_behind_other_segments_counts_and_a_thumbnails_does_not() -> None:
    data = jpeg_of_scans(64, 12)
    end = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 8) + b"\xff\xd9\xff\xd9\xff\xda"  # an end and a scan that are none
    assert cost_of(data[:end] + comment + data[end:]).scans == 12
    assert cost_of(data[:2] + comment + data[2:]).scans == 12
    assert cost_of(data + data).scans == 12


def test_coefficients_of_all_scans_are_held_at_full_size_even_if_the_result_is_small() -> None:
    cost = cost_of(progressive_giant(800))
    assert cost.loading_bytes == 2 * 3 * 800 * 800
    assert cost.peak_bytes(at_least=100) >= cost.loading_bytes
    assert cost_of(giants(800)["JPEG"]).peak_bytes(at_least=100) < 800 * 800


def test_no_header_takes_more_than_bounded_work() -> None:
    """Each of these has a million entries; the loops end at MAX_ENTRIES."""
    segments = b"\xff\xd8\xff" + b"\xff\xe0\0\2" * 1_000_000
    blocks = b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0) + b"\x21\xfe" + b"\1\0" * 1_000_000
    tags = b"II+\0" + bytes(4) + struct.pack("<QQ", 16, 1 << 60) + bytes(20) * MAX_ENTRIES
    assert cost_of(segments) == Cost(converted=False)
    assert (cost_of(blocks).width, cost_of(tags).width) == (100, 0)
    within = jpeg_of_scans(64, 12)
    end = within.rindex(b"\xff\xd9")
    assert cost_of(within[:end] + b"\xff\xe0\0\2" * 1_000_000 + within[end:]).scans > 1_000_000


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0+"]), st.binary(max_size=99)
)
def test_no_bytes_break_the_estimate(start: bytes, rest: bytes) -> None:
    assert cost_of(start + rest).peak_bytes(224) >= 0


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_off_anywhere_has_a_cost(form: str) -> None:
    data = giants(64)[form]
    for end in range(0, min(len(data), 600), 7):
        assert cost_of(data[:end]).peak_bytes() >= 0

"""Reading a file block by block gives what parsing it as a whole gives, or leaves it to that."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.dataset.coco import parse
from services.dataset.columns import Columns
from services.dataset.findings import FindingLog
from services.dataset.reading import Irregular, columns_of, read_regular

Json = dict[str, Any]
INNER = '}, {"images": [{"id": 7}], "annotations": []}]'
words = st.sampled_from(["", "a.jpg", "é/ü.jpg", INNER, '"', "\\", "}", "],", "] }"])
whole_numbers = st.integers(0, 2**63 - 1)
numbers = st.one_of(whole_numbers, st.floats(allow_nan=False, allow_infinity=False))
extra = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
optional = {"license": extra, "segmentation": extra, "attributes": extra}
images = st.fixed_dictionaries(
    {"id": whole_numbers},
    optional={"file_name": words, "width": numbers, "height": st.none() | numbers, "coco_url": words, **optional},
)
annotations = st.fixed_dictionaries(
    {"image_id": whole_numbers},
    optional={
        "id": st.none() | whole_numbers,
        "category_id": whole_numbers,
        "bbox": st.one_of(st.none(), st.lists(numbers, min_size=4, max_size=4), extra),
        "iscrowd": st.sampled_from([0, 1, True, None]),
        **optional,
    },
)
categories = st.fixed_dictionaries({"id": whole_numbers}, optional={"name": words, **optional})
files = st.fixed_dictionaries(
    {"images": st.lists(images, max_size=6)},
    optional={
        "annotations": st.lists(annotations, max_size=6),
        "categories": st.lists(categories, max_size=3),
        "info": extra,
        "licenses": extra,
    },
)
writings: list[Json] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}, {"indent": "\t"}]


def content(columns: Columns) -> list[object]:
    """Everything that the columns have."""
    numbers = columns.ids, columns.widths, columns.heights, columns.mark_ids, columns.image_ids, columns.category_ids
    lists = [[str(value) for value in column.tolist()] for column in (*numbers, columns.boxes, columns.crowds)]
    return [*lists, columns.names, columns.located, columns.categories, columns.faults]


def in_blocks(data: bytes, size: int = 50) -> list[object] | None:
    """The content, read in small blocks; None if it has to be parsed as a whole."""
    try:
        return content(read_regular(BytesIO(data), boxes=True, block_bytes=size))
    except Irregular:
        return None


def at_once(data: bytes) -> list[object] | None:
    """The content, parsed as a whole; None if it is not a COCO file as it is."""
    log = FindingLog(10)
    file = parse(data, "f", log)
    return None if file is None or log.kept else content(columns_of(file, boxes=True))


@given(files, st.sampled_from(writings), st.randoms(), st.integers(1, 400))
@example({"images": [{"id": 1}], "info": {"images": [{"id": 2}]}}, {}, None, 20)
def test_every_file_is_read_as_it_is_parsed(file: Json, writing: Json, order: Any, size: int) -> None:
    sections = list(file.items())
    if order:
        order.shuffle(sections)
    data = json.dumps(dict(sections), **writing).encode()
    assert in_blocks(data, size) in (at_once(data), None)


GOOD = b'{"info": {}, "images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 1}], "categories": [{"id": 1}]}'


@given(st.integers(0, len(GOOD) - 1), st.sampled_from([b"", b",", b" ", b"]", b"}", b"{", b"[", b'"', b"\x0b"]))
def test_no_damaged_file_is_read_that_would_not_be_parsed(place: int, put: bytes) -> None:
    for data in (GOOD[:place] + put + GOOD[place + 1 :], GOOD[:place] + put + GOOD[place:]):
        for size in (1, 7, 30, 1000):
            assert in_blocks(data, size) in (at_once(data), None)


@pytest.mark.parametrize("writing", writings)
@pytest.mark.parametrize("size", [64, 1000, 100_000])
def test_a_usual_file_is_read_in_blocks(writing: Json, size: int) -> None:
    """Otherwise it would take several times the memory."""
    marks: list[Json] = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3.5, 4], "attributes": {"a": n}, "iscrowd": 0}
        for n in range(40)
    ]
    marks[3]["segmentation"] = {"counts": [1, 2], "size": [3, 4]}
    marks[5]["bbox"] = [1, 2, 3]
    content = {
        "info": {"year": 2026},
        "licenses": [{"id": 1}],
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480.5} for n in range(40)],
        "annotations": marks,
        "categories": [{"id": 1, "name": "ü"}],
    }
    data = json.dumps(content, **writing).encode()
    found = in_blocks(data, size)
    assert found == at_once(data)
    assert found is not None
    assert in_blocks(b"\xef\xbb\xbf" + data, size) == found


@pytest.mark.parametrize(
    "data",
    [
        b'{"images": [{"id": 1} {"id": 2}]}',
        b'{"images": [{"id": 1}, ]}',
        b'{"images": [{"id": 1}], "images": [{"id": 2}]}',
        b'{"images": [{"id": "1"}]}',
        b'{"images": [{"id": 1}], "annotations": null}',
        b'{"info": {"images": [{"id": 1}]}}',
        b'{"x": "\\"images\\": [{}]"}',
        b'{"images": [{"id": 1}]} {}',
        b'{"images": [{"id": 1}]',
        b"",
    ],
)
def test_what_is_irregular_is_left_to_the_parser(data: bytes) -> None:
    for size in (1, 10, 1000):
        assert in_blocks(data, size) is None

"""Names of exported files: below the folder and legal on every file system, whatever the service says."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.exporters.names import Paths, safe_part, safe_path, with_suffix

NAMES = st.text(st.sampled_from([*"aA.é\u0301:/\\ _%|CON", "\0", "日"]), max_size=30)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("images/1.jpg", "images/1.jpg"),
        ("a b%20c#1+é日.jpg", "a b%20c#1+é日.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        (r"C:\photos\cats\1.jpg", "photos/cats/1.jpg"),
        ("x:12_y:5.jpg", "x_12_y_5.jpg"),
        ("con.jpg", "_con.jpg"),
        ("Com1", "_Com1"),
        ("lpt².png", "_lpt².png"),
        ("console.jpg", "console.jpg"),
        (".git/hooks/x", "_.git/hooks/x"),
        ("a./b. /c ", "a_/b_/c"),
        ("a\0b\x1bc", "a_b_c"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_a_name_becomes_a_path_below_the_folder(name: str, path: str) -> None:
    assert safe_path(name) == path


def test_a_name_of_another_unicode_form_is_kept() -> None:
    name = unicodedata.normalize("NFD", "é.jpg")
    assert safe_path(name) == name


def test_a_category_is_one_folder() -> None:
    assert safe_part("tomato/leaf\\spot") == "tomato_leaf_spot"


def test_a_long_name_is_cut_and_keeps_its_suffix() -> None:
    path = safe_path("日" * 200 + ".jpeg")
    assert path.endswith("日.jpeg")
    assert len(path.encode()) <= 240


@given(NAMES)
def test_no_name_leaves_the_folder_or_is_forbidden_on_windows(name: str) -> None:
    path = safe_path(name)
    for kind in (PurePosixPath, PureWindowsPath):
        assert not kind(path).is_absolute()
        assert not kind(path).drive
        assert ".." not in kind(path).parts
    for part in path.split("/"):
        assert not part.endswith((".", " "))
        assert not set(part) & set('<>:"|?*\\')
        assert part.partition(".")[0].rstrip().casefold() not in {"con", "aux", "nul", "prn"}
    assert safe_path(path) == path


@given(st.lists(NAMES), st.booleans())
def test_no_two_paths_are_one_where_case_and_unicode_form_do_not_count(names: list[str], by_stem: bool) -> None:
    paths = Paths(by_stem=by_stem)
    found = [unicodedata.normalize("NFC", paths.add(safe_path(name))).casefold() for name in names]
    assert len(set(found)) == len(found)
    folders = {str(above) for path in found for above in PurePosixPath(path).parents} - {"."}
    assert not folders & set(found)
    if by_stem:
        assert len({path.removesuffix(PurePosixPath(path).suffix) for path in found}) == len(found)


@pytest.mark.parametrize(
    ("path", "extension", "named"),
    [
        ("a.JPEG", "jpg", "a.JPEG"),
        ("a.bmp", "png", "a.png"),
        ("a.jpg", "png", "a.png"),
        ("a.12", "jpg", "a.12.jpg"),
        ("a", "png", "a.png"),
        ("a.bmp", "", "a.bmp"),
        ("a", "", "a.jpg"),
    ],
)
def test_a_suffix_says_what_the_bytes_are(path: str, extension: str, named: str) -> None:
    assert with_suffix(path, extension) == named

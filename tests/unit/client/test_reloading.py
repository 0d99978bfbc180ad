"""Files that are replaced while they are in use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from sightline.client.transport.reloading import ReloadingFiles


def joined(contents: list[bytes]) -> bytes:
    """What stands in for certificate and key: two files that must say the same."""
    if len(set(contents)) > 1 or not contents[0]:
        raise ValueError(f"{contents} do not fit")
    return contents[0]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("one", "two")]
    for path in made:
        path.write_bytes(b"a")
    return made


def test_a_new_content_is_seen_at_once_though_times_and_size_stay(paths):
    watched = ReloadingFiles(paths, joined)
    for content in (b"b", b"c", b"d"):
        for path in paths:
            path.write_bytes(content)
        assert watched.get() == content


def test_files_that_do_not_fit_are_told_of_once_and_leave_the_value(paths):
    told: list[Exception] = []
    watched = ReloadingFiles(paths, joined, told.append)
    paths[0].write_bytes(b"b")
    assert [watched.get() for _ in range(3)] == [b"a"] * 3
    assert len(told) == 1
    paths[1].unlink()
    assert watched.get() == b"a"
    paths[1].write_bytes(b"b")
    assert watched.get() == b"b"
    assert [type(error) for error in told] == [ValueError, FileNotFoundError]


def test_the_value_stays_the_same_object_while_the_contents_do(paths):
    watched = ReloadingFiles(paths, list)
    first = watched.get()
    for path in paths:
        path.touch()
    assert watched.get() is first


def test_files_that_have_settled_are_not_read_again(paths):
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))
    loads: list[int] = []
    watched = ReloadingFiles(paths, lambda contents: loads.append(1))
    paths[0].touch()
    os.utime(paths[0], (time.time() - 30, time.time() - 30))
    for _ in range(5):
        watched.get()
    assert len(loads) == 1


def test_what_cannot_be_used_at_first_is_raised(paths):
    paths[0].write_bytes(b"b")
    with pytest.raises(ValueError, match="do not fit"):
        ReloadingFiles(paths, joined)


def test_a_link_to_another_folder_replaces_all_at_once(tmp_path):
    """As Kubernetes does with secrets."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cert").write_text(version)
    (tmp_path / "now").symlink_to("v1")
    watched = ReloadingFiles([tmp_path / "now" / "cert"], lambda contents: contents[0])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "now")
    assert watched.get() == b"v2"


def test_no_reader_ever_gets_files_that_do_not_fit(paths):
    watched, stop = ReloadingFiles(paths, joined), threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(watched.get())

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        for path in paths:
            path.write_bytes(b"%d" % number)
    stop.set()
    for thread in threads:
        thread.join()
    assert watched.get() == b"199"
    assert all(value == b"a" or value.isdigit() for value in seen)

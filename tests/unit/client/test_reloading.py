"""Files that are replaced while they are in use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from sightline.client.transport.reloading import ReloadingFiles


def joined(contents: list[bytes]) -> bytes:
    """Stands in for a certificate and its key: two files with the same content."""
    if len(set(contents)) > 1 or not contents[0]:
        raise ValueError(f"{contents} do not fit")
    return contents[0]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("one", "two")]
    for path in made:
        path.write_bytes(b"a")
    return made


def test_new_content_is_seen_at_once_even_if_times_and_size_are_unchanged(paths):
    reloading = ReloadingFiles(paths, joined)
    for content in (b"b", b"c", b"d"):
        for path in paths:
            path.write_bytes(content)
        assert reloading.get() == content


def test_mismatched_files_are_reported_once_and_keep_the_value(paths):
    reported: list[Exception] = []
    reloading = ReloadingFiles(paths, joined, reported.append)
    paths[0].write_bytes(b"b")
    assert [reloading.get() for _ in range(3)] == [b"a"] * 3
    assert len(reported) == 1
    paths[1].unlink()
    assert reloading.get() == b"a"
    paths[1].write_bytes(b"b")
    assert reloading.get() == b"b"
    assert [type(error) for error in reported] == [ValueError, FileNotFoundError]


def test_the_value_stays_the_same_object_while_the_contents_do(paths):
    reloading = ReloadingFiles(paths, list)
    first = reloading.get()
    for path in paths:
        path.touch()
    assert reloading.get() is first


def test_files_that_have_not_changed_for_a_while_are_not_read_again(paths):
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))
    loads: list[int] = []
    reloading = ReloadingFiles(paths, lambda contents: loads.append(1))
    paths[0].touch()
    os.utime(paths[0], (time.time() - 30, time.time() - 30))
    for _ in range(5):
        reloading.get()
    assert len(loads) == 1


def test_files_that_are_unusable_at_first_raise(paths):
    paths[0].write_bytes(b"b")
    with pytest.raises(ValueError, match="do not fit"):
        ReloadingFiles(paths, joined)


def test_a_link_to_another_folder_replaces_all_files_at_once(tmp_path):
    """As Kubernetes does with secrets."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cert").write_text(version)
    (tmp_path / "now").symlink_to("v1")
    reloading = ReloadingFiles([tmp_path / "now" / "cert"], lambda contents: contents[0])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "now")
    assert reloading.get() == b"v2"


def test_no_reader_ever_gets_mismatched_files(paths):
    reloading, stop = ReloadingFiles(paths, joined), threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(reloading.get())

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        for path in paths:
            path.write_bytes(b"%d" % number)
    stop.set()
    for thread in threads:
        thread.join()
    assert reloading.get() == b"199"
    assert all(value == b"a" or value.isdigit() for value in seen)

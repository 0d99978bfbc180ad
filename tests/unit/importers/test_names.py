"""Names in annotation files mean the files that people meant, and no others."""

from __future__ import annotations

import os
import unicodedata

import pytest

from sightline.importers.names import Resolver


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("x:12_y:5.jpg", ["x:12_y:5.jpg", "5.jpg"]),
        ("e%20f.jpg", ["e%20f.jpg", "e f.jpg"]),
        ("d?x=1.jpg", ["d?x=1.jpg", "d"]),
        ("c#1.jpg", ["c#1.jpg", "c"]),
        ("日本語.jpg", ["日本語.jpg"]),
        ("images\\1.jpg", ["images\\1.jpg", "images/1.jpg"]),
        (" 1.jpg", [" 1.jpg", "1.jpg"]),
    ],
)
def test_a_name_that_is_a_files_name_means_that_file(name: str, files: list[str]) -> None:
    assert Resolver(files).find(name).path == name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("./a//b.jpg", "a/b.jpg"),
        ("images\\0001.jpg", "images/0001.jpg"),
        (".\\images\\0001.jpg", "images/0001.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        (" images\\1.jpg ", "images/1.jpg"),
        ("a%2520b.jpg", "a b.jpg"),
        ("M%C3%BCll/1.jpg", "Müll/1.jpg"),
        ("bilder\\GR%C3%96%C3%9FE%201.JPG", unicodedata.normalize("NFD", "Bilder/Größe 1.jpg")),
        ("\\\\server\\share\\cats\\1.jpg", "cats/1.jpg"),
        ("Müll.jpg", unicodedata.normalize("NFD", "Müll.jpg")),
        (unicodedata.normalize("NFD", "Müll.jpg"), "Müll.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("ﬀ/STRASSE.jpg", "ﬀ/straße.jpg"),
        ("/data/upload/1/abcd1234-name.jpg", "name.jpg"),
        ("/data/upload/1/abcd1234-name.jpg", "images/abcd1234-name.jpg"),
        ("/data/local-files/?d=photos/cats/1.jpg", "photos/cats/1.jpg"),
        ("/data/local-files/?d=photos/cats%20and%20dogs/1.jpg", "cats and dogs/1.jpg"),
        ("https://account.blob.core.windows.net/photos/1.jpg?sv=2020&sig=a%2Fb", "1.jpg"),
        ("file:///home/a/photos/1.jpg", "photos/1.jpg"),
        ("C:\\photos\\cats\\1.jpg", "cats/1.jpg"),
        ("/home/somebody/photos/cats/1.jpg", "cats/1.jpg"),
        ("/home/somebody/photos/cats/1.jpg", "backup/cats/1.jpg"),
        ("../images/1.jpg", "images/1.jpg"),
        ("1.jpg", "train/images/1.jpg"),
        ("0a1b", "images/0a1b.png"),
        ("2021.05.01 12.30", "images/2021.05.01 12.30.jpg"),
        ("images/IMG_1.heic", "images/IMG_1.heic.jpg"),
        ("b.jpg.", "b.jpg"),
        ("b.jpg", "b.jpg. "),
        ("cats /1.jpg", "cats/1.jpg"),
        ("a b.jpg", "a\u00a0b.jpg"),
        ("ab.jpg", "a\u200bb.jpg"),
        ("img_1.jpg", "ｉｍｇ_1.jpg"),
        ("a b#1.jpg", "a%20b%231.jpg"),
        ("あ.jpg", "%E3%81%82.jpg"),
        ("Größe.jpg", "Größe.jpg".encode().decode("cp437")),
        ("Größe.jpg", "Größe.jpg".encode().decode("latin-1")),
        ("Größe.jpg", os.fsdecode("Größe.jpg".encode("cp850"))),
        ("Größe.jpg", os.fsdecode("Größe.jpg".encode("latin-1"))),
        ("日本/1.jpg", os.fsdecode("日本/1.jpg".encode("cp932"))),
        ("纸板.jpg", "纸板.jpg".encode("gbk").decode("cp437")),
    ],
)
def test_a_name_written_elsewhere_is_found(name: str, file: str) -> None:
    assert Resolver([file, "other/unlike.jpg"]).find(name).path == file


@pytest.mark.parametrize(
    ("name", "files", "problem"),
    [
        ("C:/photos/cats/1.jpg", ["dogs/1.jpg"], "did you mean dogs/1.jpg?"),
        ("cats/1.jpg", ["dogs/1.jpg"], "did you mean dogs/1.jpg?"),
        ("1.jpg", ["train/1.jpg", "val/1.jpg"], "there is no such file; it could be train/1.jpg or val/1.jpg"),
        ("A.jpg", ["a.jpg", "a.JPG"], "there is no such file; it could be a.JPG or a.jpg"),
        ("0001.jpg", ["0002.jpg"], "there is no such file"),
        ("a.jpg", ["a.jpeg"], "did you mean a.jpeg?"),
        (
            "a b.jpg",
            ["a\u00a0b.jpg", "a\u200a b.jpg"],
            "there is no such file; it could be a\u00a0b.jpg or a\u200a b.jpg",
        ),
        ("kitchen_tabel.jpg", ["kitchen_table.jpg"], "did you mean kitchen_table.jpg?"),
    ],
)
def test_a_name_that_is_unclear_means_no_file_and_says_what_is_near(name: str, files: list[str], problem: str) -> None:
    match = Resolver(files).find(name)
    assert match.path == ""
    assert match.problem.endswith(problem)


def test_a_name_without_an_extension_means_the_image_rather_than_another_file() -> None:
    assert Resolver(["e.jpg", "e.npy"]).find("e").path == "e.jpg"
    assert Resolver(["e.npy"]).find("e").path == "e.npy"


def test_of_several_files_that_a_name_may_mean_the_one_in_the_nearest_folder_is_meant() -> None:
    resolver = Resolver(
        ["2007/images/1.jpg", "2012/images/1.jpg", "2012/images/small/2.jpg", "2012/images/large/2.jpg"]
    )
    assert resolver.find("1.jpg", near="2012/annotations").path == "2012/images/1.jpg"
    assert "could be 2007/images/1.jpg or 2012/images/1.jpg" in resolver.find("1.jpg", near="annotations").problem
    assert "could be" in resolver.find("2.jpg", near="2012/annotations").problem


def test_two_names_are_not_taken_for_one_file_because_both_end_like_it() -> None:
    found = Resolver(["1.jpg"]).all(["cats/1.jpg", "dogs/1.jpg"])
    assert [match.path for match in found.values()] == ["", ""]
    assert all("another image means too" in match.problem for match in found.values())


def test_a_literal_name_keeps_its_file_although_another_name_ends_like_it() -> None:
    found = Resolver(["1.jpg"]).all(["1.jpg", "dogs/1.jpg"])
    assert (found["1.jpg"].path, found["dogs/1.jpg"].path) == ("1.jpg", "")


@pytest.mark.parametrize("name", ["http://[", "http://[::1/a.jpg", "https://\u2100.example/a.jpg", "file://[x]/a.jpg"])
def test_a_malformed_url_means_no_file_or_one_with_its_end(name: str) -> None:
    assert Resolver(["b.jpg"]).find(name).path == ""

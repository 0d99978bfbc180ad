"""Names that were probably meant to be the same."""

import unicodedata

import pytest

from services.kit.alike import COMPARED, alike, similar

KNOWN = ["None", "fire truck", "Müll", "class 1", "class 10", "Straße"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("none", "None"),
        (" None\t", "None"),
        ("Fire  Truck", "fire truck"),
        ("fire\u00a0truck", "fire truck"),
        ("fire_truck", "fire truck"),
        ("firetruck", "fire truck"),
        (unicodedata.normalize("NFD", "Müll"), "Müll"),
        ("\ufeffNone", "None"),
        ("STRASSE", "Straße"),
        ("ｃｌａｓｓ　１", "class 1"),
        ("Class 10", "class 10"),
        ("class 2", ""),  # another number is another class
        ("owl", ""),
        ("", ""),
    ],
)
def test_a_name_is_matched_to_the_one_that_was_meant(name: str, meant: str) -> None:
    assert similar([name], KNOWN) == [meant]


def test_of_many_names_only_the_first_are_compared_letter_by_letter() -> None:
    names = [*(f"x{'y' * number}" for number in range(COMPARED)), "Firetruck", "FIRE TRUCK"]
    assert similar(names, KNOWN)[COMPARED:] == ["", "fire truck"]


def test_names_that_are_equal_except_for_case_and_spaces_are_grouped() -> None:
    assert alike(["Glass", "glass", "paper", "glass ", "Paper"]) == [["Glass", "glass", "glass "], ["paper", "Paper"]]
    assert alike(["glass", "glasses", "1", "2", "-1", "1-2", "1 2"]) == []


def test_names_that_are_equal_except_for_hyphens_and_the_forms_of_emoji_are_grouped() -> None:
    assert alike(["red-wine", "red_wine", "Red – Wine", "redwine"]) == [["red-wine", "red_wine", "Red – Wine"]]
    assert alike(["❤", "❤\ufe0f"]) == [["❤", "❤\ufe0f"]]

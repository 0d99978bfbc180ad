"""Text on drawings is readable: by another font where there is one, else without what no font has, which is said."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from sightline.cli import lettering
from sightline.cli.drawing import draw_objects
from sightline.cli.frames import Found, fitting
from sightline.cli.lettering import font, fonts_for, legible, replaced
from tests.support.fonts import font_with
from tests.unit.cli.labels import record_labels

CARDBOARD = "纸板"


@pytest.fixture(autouse=True)
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Callable[[str], None]]:
    """Installs a font that has these characters; without it, no system font is found."""
    cached = (lettering._font_name, lettering._drawn, lettering._has, lettering._picture)
    cached += (lettering._installed, lettering._opened)

    def install(characters: str) -> None:
        fonts = (str(font_with(characters, tmp_path / "system.ttf")),) if characters else ()
        monkeypatch.setattr(lettering, "_SYSTEM_FONTS", ("no such font.ttf", *fonts))
        for function in cached:
            function.cache_clear()

    install("")
    yield install
    for function in cached:
        function.cache_clear()


def path_of(letters: lettering.Font) -> str:
    assert isinstance(letters, ImageFont.FreeTypeFont)
    return str(letters.path)


def test_a_name_is_drawn_with_a_font_that_has_it(install: Callable[[str], None]) -> None:
    install(CARDBOARD)
    assert legible(CARDBOARD) == CARDBOARD
    assert path_of(font(20, CARDBOARD)).endswith("system.ttf")
    assert not path_of(font(20, "cat")).endswith("system.ttf")
    assert replaced(["cat", CARDBOARD]) == ""


def test_what_no_font_has_is_replaced_and_known(install: Callable[[str], None]) -> None:
    assert legible(CARDBOARD) == "??"
    assert replaced([CARDBOARD, "cat", CARDBOARD]) == "".join(sorted(CARDBOARD))
    install(CARDBOARD)
    assert legible(f"{CARDBOARD} 📦") == f"{CARDBOARD} ?"
    assert path_of(font(20, legible(f"{CARDBOARD} 📦"))).endswith("system.ttf")
    assert replaced([f"{CARDBOARD} 📦"]) == "📦"


def test_what_a_names_font_lacks_is_known_though_another_font_has_it(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(CARDBOARD)
    fonts = (*lettering._SYSTEM_FONTS, str(font_with("📦", tmp_path / "emoji.ttf")))
    monkeypatch.setattr(lettering, "_SYSTEM_FONTS", fonts)
    lettering._installed.cache_clear()
    assert replaced([CARDBOARD, "📦"]) == ""
    assert replaced([f"{CARDBOARD} 📦"]) == "📦"
    assert fonts_for("📦") == []


@pytest.mark.parametrize(
    ("characters", "fonts"),
    [
        (CARDBOARD, ["Noto Sans CJK (the package fonts-noto-cjk)"]),
        ("한カ", ["Noto Sans CJK (the package fonts-noto-cjk)"]),
        ("🍴⚗", ["Symbola (the package fonts-symbola)"]),
        ("नไא", ["Unifont (the package fonts-unifont)"]),
        ("न📦", ["Symbola (the package fonts-symbola)", "Unifont (the package fonts-unifont)"]),
    ],
)
def test_a_font_is_named_that_has_the_characters(characters: str, fonts: list[str]) -> None:
    assert fonts_for(characters) == fonts


def test_letters_lose_the_accents_that_no_font_has() -> None:
    assert legible("Käse, jalapeño, crème") == "Kase, jalapeno, creme"
    assert legible("cafe\u0301") == "cafe"
    assert replaced(["Käse", "café"]) == ""


def test_labels_and_legends_show_the_name(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(CARDBOARD)
    labels = record_labels(monkeypatch)
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    draw_objects(tmp_path / "a.png", [Found(CARDBOARD, (40, 60, 180, 190), 0.75)])
    assert [label.text for label in labels] == [f"{CARDBOARD}  75 %", f"1 {CARDBOARD}"]


def test_the_drawn_glyphs_differ_from_those_of_missing_characters(install: Callable[[str], None]) -> None:
    def drawn() -> bytes:
        image = Image.new("L", (120, 60))
        ImageDraw.Draw(image).text((10, 10), CARDBOARD, fill=255, font=font(40, CARDBOARD))
        return image.tobytes()

    boxes = drawn()
    install(CARDBOARD)
    assert drawn() != boxes
    assert fitting(CARDBOARD * 20, 20, 100).endswith("…")

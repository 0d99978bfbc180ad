"""Text on drawings: which font has its characters, and what is drawn for those that none has.

Pillow's built-in font has only ASCII. Others are found by their names among the fonts of the system.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MISSING = "?"
_SYSTEM_FONTS = (  # from the widest coverage; the first that has all of a text draws it
    *("NotoSansCJK-Regular.ttc", "NotoSansCJK-VF.otf.ttc", "SourceHanSans.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc"),
    *("DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "unifont.otf", "unifont.ttf"),  # Linux
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "FreeSans.ttf", "FreeSerif.ttf"),
    *("Symbola_hint.ttf", "Symbola.ttf"),  # emoji without colours
    *("msyh.ttc", "simsun.ttc", "YuGothM.ttc", "msgothic.ttc", "malgun.ttf", "arial.ttf"),  # Windows
    *("Nirmala.ttc", "Nirmala.ttf", "LeelawUI.ttf", "seguisym.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),  # macOS
)
_CJK = ("CJK", "KANGXI", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "BOPOMOFO")  # how names of characters begin
_NO_CHARACTER = "\U0010ffff"
_TRIED_AT = 16  # pixels


def font(size: float, text: str = "") -> Font:
    """Pillow's built-in font, or one of the system's if only that has all characters of the text."""
    if text.isascii():
        return ImageFont.load_default(size)
    name = _font_name(text)
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def legible(text: str) -> str:
    """The text as it can be drawn: accents that no font has are left out, and other characters replaced by MISSING."""
    if text.isascii():
        return text
    name = _font_name(text)
    return "".join(_drawn(name, character) for character in text)


def replaced(texts: Iterable[str]) -> str:
    """The characters of the texts that are drawn as MISSING, for lack of a font that has them too; each once."""
    return "".join(sorted({character for text in texts for character in text if _is_replaced(character, text)}))


def fonts_for(characters: str) -> list[str]:
    """Fonts for those of the characters that no font of this machine has, with their packages in Debian."""
    return sorted({_font_for(character) for character in characters if _is_replaced(character, character)})


def _is_replaced(character: str, text: str) -> bool:
    return not character.isascii() and MISSING in _drawn(_font_name(text), character)


def _font_for(character: str) -> str:
    if unicodedata.name(character, "").startswith(_CJK):
        return "Noto Sans CJK (the package fonts-noto-cjk)"
    is_symbol = unicodedata.category(character).startswith("S") or character > "\uffff"
    return "Symbola (the package fonts-symbola)" if is_symbol else "Unifont (the package fonts-unifont)"


@cache
def _font_name(text: str) -> str:
    """The font that has the most of the text; empty for the built-in one."""
    visible = {character for character in text if not _is_mark(character)}
    best, most = "", _count("", visible)
    for name in _installed():
        if most == len(visible):
            break
        count = _count(name, visible)
        best, most = (name, count) if count > most else (best, most)
    return best


def _count(name: str, characters: Iterable[str]) -> int:
    return sum(_has(name, character) for character in characters)


@cache
def _drawn(name: str, character: str) -> str:
    if _has(name, character):
        return character
    if _is_mark(character):
        return ""
    plain = "".join(part for part in unicodedata.normalize("NFKD", character) if not _is_mark(part))
    return plain if plain and all(_has(name, part) for part in plain) else MISSING


def _is_mark(character: str) -> bool:
    """Whether it is nothing by itself, like an accent that combines or a selector of variants."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


@cache
def _has(name: str, character: str) -> bool:
    """Whether the font has the character: all that it lacks look the same."""
    if character.isspace():
        return True
    return _picture(name, character) != _picture(name, _NO_CHARACTER)


@cache
def _picture(name: str, character: str) -> bytes:
    image = Image.new("L", (3 * _TRIED_AT, 3 * _TRIED_AT))
    ImageDraw.Draw(image).text((_TRIED_AT, _TRIED_AT), character, fill=255, font=_opened(name))
    return image.tobytes()


@cache
def _installed() -> tuple[str, ...]:
    """Those of the system's fonts that can be opened."""
    return tuple(name for name in _SYSTEM_FONTS if _can_open(name))


def _can_open(name: str) -> bool:
    try:
        _opened(name)
    except OSError:
        return False
    return True


@cache
def _opened(name: str) -> Font:
    return ImageFont.truetype(name, _TRIED_AT) if name else ImageFont.load_default(_TRIED_AT)

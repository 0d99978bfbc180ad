"""Every suppression of a tool has its reason on the same line."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SILENCED = re.compile(
    r"(?:ruff: )?noqa(?:: *[A-Z]+\d+(?:, *[A-Z]+\d+)*)?"
    r"|(?:pyright|type): *ignore(?:\[[\w, -]+\])?"
    r"|pragma: *no cover"
)
REASON = re.compile(r"[A-Za-z]\w*(?:\W+\w+)+")  # two words at least


def unexplained(text: str) -> list[int]:
    """The numbers of the lines with a suppression and no reason."""
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
    ]
    return [
        comment.start[0]
        for comment in comments
        if SILENCED.search(comment.string) and not REASON.search(SILENCED.sub("", comment.string))
    ]


def test_every_suppression_has_its_reason_on_its_line():
    files = [
        path for folder in ("services", "sightline", "tests", "tools", "bench", "deploy") for path in found(folder)
    ]
    files.append(ROOT / "hatch_build.py")
    assert len(files) > 300, "the walk found too little to be meaningful"
    assert [f"{file.relative_to(ROOT)}:{line}" for file in files for line in unexplained(file.read_text())] == []


@pytest.mark.parametrize(
    ("line", "explained"),
    [
        ("x = 1  # noqa: S311\n", False),
        ("x = 1  # noqa: S311 - a split is no secret\n", True),
        ("x = 1  # type: ignore[arg-type]  # noqa: SLF001\n", False),
        ("x = 1  # type: ignore[arg-type]  # annotated int, used as a float\n", True),
        ("x = 1  # pyright: ignore[reportPrivateUsage, reportArgumentType]\n", False),
        ("x = 1  # pyright: ignore[reportDeprecated] (it adds in any order)\n", True),
        ("x = '# noqa: S311'\n", True),
    ],
)
def test_a_missing_reason_is_recognised(line: str, explained: bool):
    assert bool(unexplained(line)) is not explained


def found(folder: str) -> list[Path]:
    """The Python files that are not generated."""
    return [path for path in (ROOT / folder).rglob("*.py") if "sightline/v1" not in path.as_posix()]

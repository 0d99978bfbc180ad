"""`sightline datasets diff`, as it is printed."""

import pytest

from sightline.cli.diffs import print_diff
from sightline.client.results.diff import DatasetDiff, Relabelled


def test_every_difference_has_a_line_below_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    print_diff(
        DatasetDiff(
            added=tuple(f"{number}.jpg" for number in range(52)),
            removed=("[bold].jpg",),
            replaced=(),
            renamed=(("a.jpg", "b.jpg"),),
            relabelled=(
                Relabelled(file_name="c.jpg", before=("cat",), after=()),
                Relabelled(file_name="d.jpg", before=("cat",), after=("cat",)),
            ),
            categories_added=("cow",),
            categories_removed=("dog ",),
        )
    )
    shown = capsys.readouterr().out
    for text in (
        "categories\n  + cow\n  - 'dog '\n",
        "52 images added\n  0.jpg\n",
        "  49.jpg\n  and 2 more: --json prints them all\n",
        "1 image removed\n  [bold].jpg\n",
        "1 image renamed\n  a.jpg → b.jpg\n",
        "2 images relabelled\n  c.jpg: cat → nothing\n  d.jpg: boxes moved\n",
    ):
        assert text in shown
    assert "with other bytes" not in shown


def test_no_difference_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = dict.fromkeys(DatasetDiff.__slots__, ())
    print_diff(DatasetDiff(**nothing))
    assert capsys.readouterr().out == "no differences\n"

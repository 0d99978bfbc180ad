"""`sightline datasets report`: what the page has, that it loads nothing, and that no text from outside is markup."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from sightline.pages.charts import bars, scatter
from sightline.pages.markup import Markup, joined, tag
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import DatasetSample
from sightline.v1.finding_pb2 import Finding
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes
from tests.unit.cli.pages import EVIL, Page, photo


@pytest.fixture
def pets(fakes: Fakes) -> None:
    """A detection dataset with hostile names, a repeated image, and one that cannot be shown."""
    dataset = Dataset(name="datasets/pets", state=Dataset.READY, annotation_kind=Dataset.OBJECT_DETECTION)
    dataset.display_name = EVIL
    dataset.stats.image_count = 3
    for number, name in enumerate((EVIL, "cat"), 1):
        dataset.stats.categories.add(name=name, image_count=10 * number, annotation_count=12 * number)
    fakes.datasets[dataset.name] = dataset
    for number in (1, 2, 3):
        one = DatasetSample(image_id=number, file=f"{EVIL}/{number}.png", width=400, height=300)
        one.image = photo(400, 300) if number < 3 else b"broken"
        one.boxes.add(x=40, y=30, width=100, height=50, category=EVIL if number == 1 else "cat")
        fakes.samples.append(one)
    fakes.findings = [
        Finding(
            severity=Finding.ERROR,
            code="duplicateLabelsDiffer",
            file=f"{EVIL}/2.png",
            image_id=2,
            other_file=f"{EVIL}/1.png",
            other_image_id=1,
            message=f"is {EVIL}",
            remedy=EVIL,
        ),
        Finding(severity=Finding.INFO, code="imageOriented", file="z\u202e.png", image_id=0, message="Turned."),
    ]


def made(sightline: Command, tmp_path: Path) -> Page:
    file = tmp_path / "report.html"
    outcome = sightline("datasets", "report", "pets", "--html", str(file))
    assert (outcome.code, outcome.out.strip()) == (0, f"wrote {file}"), outcome.err
    return Page(file.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("pets")
def test_no_text_from_outside_is_markup_and_nothing_is_loaded(sightline: Command, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    page.require_harmless()
    assert sum(EVIL in text for text in page.texts) >= 8
    assert "\\u202e.png" in " ".join(page.texts)


@pytest.mark.usefixtures("pets")
def test_a_page_that_cannot_be_written_is_named(sightline: Command, tmp_path: Path) -> None:
    outcome = sightline("datasets", "report", "pets", "--html", tmp_path / "nowhere" / "report.html")
    assert outcome.code == 1
    assert "report.html cannot be read or written: No such file or directory" in outcome.err


@pytest.mark.usefixtures("pets")
def test_samples_of_each_category_have_their_boxes_drawn(sightline: Command, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    boxes = [one for one in page.all("rect") if one.get("fill") == "none"]
    assert {(box["x"], box["y"], box["width"], box["height"]) for box in boxes} == {("40.0", "30.0", "100.0", "50.0")}
    assert len({box["stroke"] for box in boxes}) == 2
    shown = page.all("image")
    assert len(shown) == 4  # two samples, and two side by side
    encoded = (shown[0]["href"] or "").partition(",")[2]
    image = Image.open(BytesIO(b64decode(encoded)))
    assert (image.format, image.size) == ("JPEG", (400, 300))
    assert "not shown" in page.texts


@pytest.mark.usefixtures("pets")
def test_findings_are_grouped_by_severity_and_repeated_images_side_by_side(sightline: Command, tmp_path: Path) -> None:
    page = made(sightline, tmp_path)
    text = " ".join(page.texts)
    assert text.index("ERROR: 1") < text.index("INFO: 1")
    assert "duplicateLabelsDiffer" in text
    (pair,) = re.findall(r"Repeated images(.*?)Samples", text, re.DOTALL)
    assert pair.index("/1.png") < pair.index("/2.png")
    assert f"is {EVIL}" in pair


def test_a_failed_dataset_has_a_page_without_images(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", state=Dataset.FAILED)
    fakes.findings = [Finding(severity=Finding.ERROR, code="categoriesMissing", message="None.", remedy="List them.")]
    page = made(sightline, tmp_path)
    assert page.all("image") == []
    assert "categoriesMissing" in page.texts
    assert not any("ListDatasetSamples" in type(request).__name__ for request in fakes.requests)


def test_everything_is_escaped_but_what_is_markup() -> None:
    made = tag("a", "<b>", tag("i", "x & y"), title='"<', data_x=1, class_="c")
    assert made == '<a title="&quot;&lt;" data-x="1" class="c">&lt;b&gt;<i>x &amp; y</i></a>'
    assert joined("<", Markup("<br>")) == "&lt;<br>"


def test_bars_are_in_proportion_and_the_scatter_keeps_all_sizes_inside() -> None:
    chart = Page(bars([("many", 50), ("few", 5), ("none", 0)], lambda name: f"/of/{name}"))
    assert [bar["width"] for bar in chart.all("rect")] == ["100.00%", "10.00%", "0.00%"]
    assert [link["href"] for link in chart.all("a")] == ["/of/many", "/of/few", "/of/none"]
    assert Page(bars([])).all("rect") == []
    dots = Page(scatter([(100, 50), (1900, 1200), (100, 50)])).all("circle")
    assert len(dots) == 2
    assert all(48 <= float(dot["cx"] or 0) <= 408 and 8 <= float(dot["cy"] or 0) <= 368 for dot in dots)

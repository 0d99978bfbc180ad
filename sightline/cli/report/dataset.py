"""Lays out the report of a dataset."""

from collections.abc import Iterable, Mapping, Sequence

from sightline.cli.report.pictures import figure
from sightline.client.quantities import size
from sightline.client.results.dataset import DatasetData, Finding
from sightline.client.results.kinds import DatasetKind, Severity
from sightline.client.results.samples import Sample, Samples
from sightline.pages.charts import BARS, bars, scatter
from sightline.pages.layout import facts, heading, moment, page, section, table
from sightline.pages.markup import Markup, tag
from sightline.pages.style import SERIES
from sightline.plurals import counted
from sightline.text import shown

REPEATED = ("duplicateLabelsDiffer", "nearLabelsDiffer", "exactDuplicate", "nearDuplicate")
SHOWN_PAIRS = 40
SHOWN_FINDINGS = 50  # of a code
SHOWN_CATEGORIES = 100


def page_of(
    dataset: DatasetData, findings: Sequence[Finding], samples: Samples | None, repeated: Samples | None = None
) -> str:
    """The page. There are no samples, and none of the images in `pair_ids`, if the dataset is not READY."""
    numbers = {category.name: number for number, category in enumerate(dataset.categories)}
    sections = [_head(dataset), _findings(findings)]
    if dataset.categories:
        more = f"The {BARS} most frequent of {len(dataset.categories)}." if len(dataset.categories) > BARS else ""
        frequent = sorted(dataset.categories, key=lambda one: -one.image_count)[:BARS]
        counts = bars([(one.name, one.image_count) for one in frequent])
        sections.append(section("Images per category", tag("p", more), counts))
    if samples and samples.sizes:
        sections.append(section("Sizes", scatter(samples.sizes)))
    images = {sample.image_id: sample for sample in repeated.images} if repeated else {}
    sections += [_pairs(findings, images, numbers), _samples(dataset, samples.images if samples else (), numbers)]
    return page(f"{dataset.name}: report", *sections)


def pair_ids(findings: Iterable[Finding]) -> list[int]:
    """The images that the page shows side by side."""
    chosen = _repeats(findings)[:SHOWN_PAIRS]
    ids = (id_ for finding in chosen for id_ in (finding.image_id, finding.other_image_id) if id_ is not None)
    return list(dict.fromkeys(ids))


def _head(dataset: DatasetData) -> Markup:
    rows = (
        ("state", dataset.state),
        ("kind", dataset.kind),
        ("images", str(dataset.image_count) if dataset.image_count is not None else ""),
        ("annotations", str(dataset.annotation_count or "")),
        ("categories", str(dataset.category_count or "")),
        ("size", size(dataset.size_bytes) if dataset.size_bytes is not None else ""),
        ("registered", moment(dataset.create_time)),
        ("digest", dataset.snapshot_digest),
        ("error", dataset.error.message if dataset.error else ""),
    )
    return tag("header", *heading(dataset.display_name, dataset.name), facts(rows))


def _findings(findings: Sequence[Finding]) -> Markup:
    if not findings:
        return section("Findings", tag("p", "None."))
    parts: list[str] = []
    for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO):
        of_severity = [finding for finding in findings if finding.severity == severity]
        if not of_severity:
            continue
        parts.append(tag("h3", f"{severity}: {len(of_severity)}", class_=severity))
        by_code: dict[str, list[Finding]] = {}
        for finding in of_severity:
            by_code.setdefault(finding.code, []).append(finding)
        parts += [_code(code, found) for code, found in by_code.items()]
    return section("Findings", *parts)


def _code(code: str, found: Sequence[Finding]) -> Markup:
    rows = [
        (
            finding.file,
            "" if finding.image_id is None else str(finding.image_id),
            "" if finding.annotation_id is None else str(finding.annotation_id),
            finding.text,
        )
        for finding in found[:SHOWN_FINDINGS]
    ]
    listed = table(("file", "image", "annotation", "what"), rows)
    rest = f"and {len(found) - SHOWN_FINDINGS} more" if len(found) > SHOWN_FINDINGS else ""
    summary = tag("summary", tag("b", code), f" ({len(found)}): {found[0].remedy}")
    return tag("details", summary, listed, tag("p", rest))


def _repeats(findings: Iterable[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.code in REPEATED and finding.other_file]
    return sorted(found, key=lambda finding: REPEATED.index(finding.code))


def _pairs(findings: Sequence[Finding], images: Mapping[int, Sample], numbers: dict[str, int]) -> Markup:
    repeats = _repeats(findings)
    if not repeats:
        return Markup()
    pairs = [
        tag(
            "div",
            _figure(images.get(finding.other_image_id or 0), finding.other_file, numbers),
            _figure(images.get(finding.image_id or 0), finding.file, numbers),
            tag("p", tag("b", finding.code, class_=finding.severity), " ", shown(finding.text)),
            class_="pair",
        )
        for finding in repeats[:SHOWN_PAIRS]
    ]
    more = f"{SHOWN_PAIRS} of {len(repeats)} are shown." if len(repeats) > SHOWN_PAIRS else ""
    return section("Repeated images", tag("p", more), tag("div", *pairs, class_="row"))


def _figure(sample: Sample | None, file: str, numbers: dict[str, int]) -> Markup:
    label = f" · {sample.category}" if sample and sample.category else ""
    return figure(sample, numbers, shown(file + label))


def _samples(dataset: DatasetData, images: Sequence[Sample], numbers: dict[str, int]) -> Markup:
    parts: list[str] = []
    for category in dataset.categories[:SHOWN_CATEGORIES]:
        having = [sample for sample in images if sample.shows(category.name)]
        if not having:
            continue
        mark = tag("span", "■ ", class_=f"k{numbers[category.name] % SERIES}")
        colours = (mark,) if dataset.kind == DatasetKind.DETECTION else ()
        about = f"{category.name} ({counted(category.image_count, 'image')})"
        figures = [_figure(sample, sample.file, numbers) for sample in having]
        parts += [tag("h3", *colours, shown(about)), tag("div", *figures, class_="row")]
    return section("Samples", *parts) if parts else Markup()

"""Lays out the report of a dataset."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC

from sightline.cli.report.charts import BARS, bars, scatter
from sightline.cli.report.markup import Markup, document, tag
from sightline.cli.report.pictures import colour, picture
from sightline.client.plurals import counted
from sightline.client.quantities import size
from sightline.client.results.dataset import DatasetData, Finding
from sightline.client.results.kinds import DatasetKind, Severity
from sightline.client.results.samples import Sample, Samples
from sightline.text import shown

REPEATED = ("duplicateLabelsDiffer", "nearLabelsDiffer", "exactDuplicate", "nearDuplicate")
SHOWN_PAIRS = 40
SHOWN_FINDINGS = 50  # of a code
SHOWN_CATEGORIES = 100

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 70rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; } h2 { margin: 2.2rem 0 .6rem; } h3 { margin: 1.2rem 0 .4rem; font-size: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { opacity: .65; } dd { margin: 0; }
dd, td, summary, figcaption, h3 { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .6rem; text-align: left; vertical-align: top; }
tr + tr td { border-top: 1px solid #8884; } th { font-weight: 600; opacity: .65; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.bar { fill: #3b82c4; } .dot { fill: #3b82c4; fill-opacity: .45; } .plot { fill: none; stroke: #8886; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-end; }
figure { margin: 0; width: 200px; } figcaption { font-size: 12px; opacity: .8; }
.pair { display: flex; gap: .8rem; border: 1px solid #8884; border-radius: .5rem; padding: .8rem; }
.pair p { margin: 0; width: 14rem; }
.missing { width: 200px; height: 80px; display: grid; place-items: center; border: 1px dashed #8888; opacity: .7; }
.ERROR { color: #c0362c; } .WARNING { color: #a86a00; } .INFO { color: #2d76b5; } b { font-weight: 600; }
details { margin: .3rem 0; } summary { cursor: pointer; }
"""


def page(
    dataset: DatasetData, findings: Sequence[Finding], samples: Samples | None, repeated: Samples | None = None
) -> str:
    """The page. There are no samples, and none of the images in `pair_ids`, if the dataset is not READY."""
    numbers = {category.name: number for number, category in enumerate(dataset.categories)}
    sections = [_head(dataset), _findings(findings)]
    if dataset.categories:
        more = f"The {BARS} most frequent of {len(dataset.categories)}." if len(dataset.categories) > BARS else ""
        sections.append(_section("Images per category", tag("p", more), bars(dataset.categories)))
    if samples and samples.sizes:
        sections.append(_section("Sizes", scatter(samples.sizes)))
    images = {sample.image_id: sample for sample in repeated.images} if repeated else {}
    sections += [_pairs(findings, images, numbers), _samples(dataset, samples.images if samples else (), numbers)]
    return document(f"{dataset.name}: report", _STYLE, *(section for section in sections if section))


def pair_ids(findings: Iterable[Finding]) -> list[int]:
    """The images that the page shows side by side."""
    chosen = _repeats(findings)[:SHOWN_PAIRS]
    ids = (id_ for finding in chosen for id_ in (finding.image_id, finding.other_image_id) if id_ is not None)
    return list(dict.fromkeys(ids))


def _section(title: str, *content: str) -> Markup:
    return tag("section", tag("h2", title), *content)


def _head(dataset: DatasetData) -> Markup:
    created = dataset.create_time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if dataset.create_time else ""
    rows = (
        ("state", dataset.state),
        ("kind", dataset.kind),
        ("images", str(dataset.image_count) if dataset.image_count is not None else ""),
        ("annotations", str(dataset.annotation_count or "")),
        ("categories", str(dataset.category_count or "")),
        ("size", size(dataset.size_bytes) if dataset.size_bytes is not None else ""),
        ("registered", created),
        ("digest", dataset.snapshot_digest),
        ("error", dataset.error.message if dataset.error else ""),
    )
    facts = [part for name, value in rows if value for part in (tag("dt", name), tag("dd", shown(value)))]
    names = dict.fromkeys(name for name in (dataset.display_name, dataset.name) if name)
    heads = [tag("p" if number else "h1", shown(name)) for number, name in enumerate(names)]
    return tag("header", *heads, tag("dl", *facts))


def _findings(findings: Sequence[Finding]) -> Markup:
    if not findings:
        return _section("Findings", tag("p", "None."))
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
    return _section("Findings", *parts)


def _code(code: str, found: Sequence[Finding]) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", shown(finding.file)),
            tag("td", "" if finding.image_id is None else str(finding.image_id)),
            tag("td", "" if finding.annotation_id is None else str(finding.annotation_id)),
            tag("td", shown(finding.text)),
        )
        for finding in found[:SHOWN_FINDINGS]
    ]
    heads = tag("tr", *(tag("th", name) for name in ("file", "image", "annotation", "what")))
    rest = f"and {len(found) - SHOWN_FINDINGS} more" if len(found) > SHOWN_FINDINGS else ""
    summary = tag("summary", tag("b", code), f" ({len(found)}): {found[0].remedy}")
    return tag("details", summary, tag("table", heads, *rows), tag("p", rest))


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
    return _section("Repeated images", tag("p", more), tag("div", *pairs, class_="row"))


def _figure(sample: Sample | None, file: str, numbers: dict[str, int]) -> Markup:
    label = f" · {sample.category}" if sample and sample.category else ""
    return tag("figure", picture(sample, numbers), tag("figcaption", shown(file + label)))


def _samples(dataset: DatasetData, images: Sequence[Sample], numbers: dict[str, int]) -> Markup:
    parts: list[str] = []
    for category in dataset.categories[:SHOWN_CATEGORIES]:
        having = [sample for sample in images if sample.shows(category.name)]
        if not having:
            continue
        mark = tag("span", "■ ", style=f"color: {colour(numbers[category.name])}")
        colours = (mark,) if dataset.kind == DatasetKind.DETECTION else ()
        about = f"{category.name} ({counted(category.image_count, 'image')})"
        figures = [_figure(sample, sample.file, numbers) for sample in having]
        parts += [tag("h3", *colours, shown(about)), tag("div", *figures, class_="row")]
    return _section("Samples", *parts) if parts else Markup()

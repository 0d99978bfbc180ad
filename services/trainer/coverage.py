"""How much of a test dataset a model can be evaluated on, and findings about the rest. Categories match by name."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.kit.alike import alike, similar
from services.kit.errors import CategoriesUnknown
from services.trainer.datasets import Dataset
from services.trainer.performance import Coverage, Finding, UnknownCategory
from services.vision.card import ModelKind
from sightline.plurals import counted

NAMED = 10  # names in a message
NAME_LENGTH = 60  # characters of a name in a message
LISTED = 20  # categories in a record; the whole performance has all


def unknown_categories(found: Iterable[tuple[str, int, int]], known: Sequence[str]) -> tuple[UnknownCategory, ...]:
    """The dataset's categories (name, images, regions) that occur and are not in `known`, most frequent first."""
    names = set(known)
    rows = [row for row in found if row[1] and row[0] not in names]
    rows.sort(key=lambda row: (-row[2], -row[1]))
    meant = similar([name for name, _, _ in rows], known)
    return tuple(
        UnknownCategory(name=name, image_count=images, region_count=regions, similar=near)
        for (name, images, regions), near in zip(rows, meant, strict=True)
    )


def check_categories(dataset: Dataset, known: Sequence[str], kind: ModelKind) -> None:
    """CategoriesUnknown if most of a READY dataset is in categories that the model does not know."""
    what = "regions" if kind is ModelKind.GENERIC_DETECTOR else "images"
    counts = {name: regions if what == "regions" else images for name, images, regions in dataset.categories}
    found = [(name, images, regions if what == "regions" else 0) for name, images, regions in dataset.categories]
    unknown = unknown_categories(found, known)
    left_out = sum(counts[category.name] for category in unknown)
    require_known(dataset.name, unknown, known, left_out, sum(counts.values()), what)


def require_known(
    dataset: str, unknown: Sequence[UnknownCategory], known: Sequence[str], left_out: int, total: int, what: str
) -> None:
    """CategoriesUnknown if more than half of the images or regions would be left out because of their category."""
    if 2 * left_out > total:
        raise CategoriesUnknown(
            unknown=left_out,
            total=total,
            what=what,
            dataset=dataset,
            categories=_listed([_described(category) for category in unknown]),
            known=_listed([_quoted(name) for name in known]),
        )


def findings(dataset: str, coverage: Coverage, unreadable: Sequence[str]) -> tuple[Finding, ...]:
    """What was left out and why, in words; `unreadable` names files, possibly not all."""
    found: list[Finding] = []
    if coverage.unknown_categories:
        found.append(_unknown(dataset, coverage))
    if count := coverage.unreadable_image_count:
        files = _listed(unreadable, count)
        message = f"Left out {count} of the {coverage.image_count} images of {dataset}, which cannot be read: {files}."
        found.append(Finding(code="imagesUnreadable", message=message, remedy="Register the dataset again."))
    if coverage.untested_categories:
        names = _listed([_quoted(name) for name in coverage.untested_categories])
        message = f"No evaluated image shows these categories of the model: {names}."
        found.append(Finding(code="categoriesUntested", message=message, remedy=f"Add images of them to {dataset}."))
    return tuple(found)


def alike_warnings(categories: Iterable[str]) -> tuple[str, ...]:
    """Warnings of categories that differ only in case, spaces, hyphens or Unicode form: of the first such groups."""
    groups = alike(categories)
    warnings = tuple(
        f"The categories {_listed([_quoted(name) for name in group])} differ only in case, spaces, hyphens or "
        "Unicode form, but the model treats them as different. Merge them in the annotation file if they mean the same."
        for group in groups[:NAMED]
    )
    if (more := len(groups) - NAMED) > 0:
        warnings += (f"The same is true of {counted(more, 'more group')} of categories.",)
    return warnings


def in_record(coverage: Coverage) -> Coverage:
    """The coverage with only as many names as a record has room for."""
    return replace(
        coverage,
        unknown_categories=coverage.unknown_categories[:LISTED],
        untested_categories=coverage.untested_categories[:LISTED],
    )


def _unknown(dataset: str, coverage: Coverage) -> Finding:
    names = _listed([_described(category) for category in coverage.unknown_categories])
    images = f"{coverage.unknown_image_count} of the {coverage.image_count} images"
    reason = "because the model does not know their category"
    message = f"Left out {images} of {dataset}, {reason}: {names}."
    if coverage.region_count:
        regions = f"{coverage.unknown_region_count} of the {coverage.region_count} regions"
        also = f", and {images}, which show nothing else" if coverage.unknown_image_count else ""
        message = f"Left out {regions} of {dataset}, {reason}{also}: {names}."
    remedy = "If the model's categories are meant, rename these in the annotation file and register it again."
    return Finding(code="categoriesUnknown", message=message, remedy=remedy)


def _described(category: UnknownCategory) -> str:
    count, what = category.image_count, "image"
    if category.region_count:
        count, what = category.region_count, "region"
    meant = f"; did you mean {_quoted(category.similar)}?" if category.similar else ""
    return f"{_quoted(category.name)} ({counted(count, what)}{meant})"


def _listed(names: Sequence[str], count: int | None = None) -> str:
    """The first names, and the number of the rest."""
    more = (len(names) if count is None else count) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _quoted(name: str) -> str:
    """The name in quotes, so that leading and trailing spaces show; truncated if long."""
    return repr(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…")

"""Shows findings, and a training dataset beside a test dataset."""

from collections.abc import Sequence

from rich.markup import escape

from sightline.cli.console import facts, notes, output, table
from sightline.cli.formats import visible
from sightline.client.results.comparison import Comparison, ImageSizes
from sightline.client.results.dataset import Finding
from sightline.client.results.kinds import Severity
from sightline.plurals import counted

SHOWN_FINDINGS = 200
SHOWN_PAIRS = 50

SEVERITY_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def print_findings(found: Sequence[Finding], whole: str) -> None:
    """Prints findings for people; `whole` is the command that prints them all."""
    rows = table("SEVERITY", "CODE", "FILE", "IMAGE", "ANNOTATION", "WHAT", "WHAT TO DO", right=("IMAGE", "ANNOTATION"))
    for finding in found[:SHOWN_FINDINGS]:
        rows.add_row(*_cells(finding))
    output().print(rows)
    if (more := len(found) - SHOWN_FINDINGS) > 0:
        notes().print(f"and {more} more: `{escape(whole)}` prints them all")


def print_comparison(comparison: Comparison, whole: str) -> None:
    """Prints a comparison for people; `whole` is the command that prints all of it."""
    shared = counted(comparison.exact_count, "image") + f" exactly, {comparison.near_count} nearly"
    rows = [
        ("in both", shared if comparison.shared else "no image"),
        ("training sizes", _sizes(comparison.training_sizes)),
        ("test sizes", _sizes(comparison.test_sizes)),
    ]
    output().print(facts(rows))
    categories = table("CATEGORY", "TRAINING IMAGES", "TEST IMAGES", right=("TRAINING IMAGES", "TEST IMAGES"))
    for one in comparison.categories:
        names = dict.fromkeys(name for name in (one.training_category, one.test_category) if name)
        shown = " / ".join(escape(visible(name)) for name in names)
        categories.add_row(shown, str(one.training_image_count), str(one.test_image_count))
    output().print(categories)
    if comparison.shared:
        pairs = table("TEST IMAGE", "TRAINING IMAGE", "ALIKE", right=())
        for pair in comparison.shared[:SHOWN_PAIRS]:
            alike = "exactly" if pair.exact else f"all but {counted(pair.distance, 'bit')} of 256"
            pairs.add_row(escape(visible(pair.test_file)), escape(visible(pair.training_file)), alike)
        output().print(pairs)
        if (more := len(comparison.shared) - SHOWN_PAIRS) > 0:
            notes().print(f"and {more} more: `{escape(whole)}` prints them all")
    if comparison.findings:
        print_findings(comparison.findings, whole)
    else:
        output().print("[green]no findings[/]")


def _sizes(sizes: ImageSizes) -> str:
    median = f"{sizes.median_width} x {sizes.median_height} in the median"
    return f"{median}, sides from {sizes.smallest_side} to {sizes.largest_side} pixels"


def _cells(finding: Finding) -> list[str]:
    style = SEVERITY_STYLES.get(finding.severity, "")
    return [
        f"[{style}]{finding.severity}[/]" if style else finding.severity,
        finding.code,
        escape(finding.file),
        str(finding.image_id) if finding.image_id is not None else "",
        str(finding.annotation_id) if finding.annotation_id is not None else "",
        escape(finding.text),
        escape(finding.remedy),
    ]

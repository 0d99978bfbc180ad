"""Prints a training's leaderboard, worst mistakes and learning curve, and the advice that follows."""

from rich.markup import escape

from sightline.cli.console import output, print_document, table
from sightline.cli.formats import percent, visible
from sightline.client.advice import Advice
from sightline.client.names import bare_name
from sightline.client.progress import metric_name
from sightline.client.quantities import duration
from sightline.client.results.kinds import DoubtKind
from sightline.client.results.model import ModelData


def print_leaderboard(model: ModelData) -> None:
    """Every trial, and why it is served or not."""
    metric = next((metric_name(entry.score_metric) for entry in model.leaderboard if entry.score_metric), "")
    score = f"SCORE: {metric}" if metric else "SCORE"
    rows = table("TRIAL", "RUNG", "RECIPE", score, "LOG LOSS", "COST", "VERDICT", right=("LOG LOSS", "COST"))
    for entry in model.leaderboard:
        limits = entry.score_interval
        interval = f" ({percent(limits.low)} to {percent(limits.high)})" if limits else ""
        rows.add_row(
            bare_name(entry.trial),
            str(entry.rung),
            escape(entry.recipe),
            f"{percent(entry.score)}{interval}" if entry.score is not None else "",
            f"{entry.log_loss:.3f}" if entry.log_loss is not None else "",
            duration(entry.cost),
            f"[green]{escape(entry.verdict)}[/]" if entry.served else escape(entry.verdict),
        )
    output().print("\n[bold]Leaderboard[/]")
    output().print(rows)


def print_mistakes(model: ModelData) -> None:
    """The worst mistakes on training images."""
    if not model.worst_mistakes:
        return
    output().print("[bold]Worst mistakes[/] on images that were not trained on; some may be labelled wrongly")
    if model.worst_mistakes[0].probability is None:
        rows = table("FILE", "MISSED", "FALSE", right=("MISSED", "FALSE"))
        for one in model.worst_mistakes:
            rows.add_row(escape(one.file_name), str(one.missed), str(one.false))
    else:
        rows = table("FILE", "LABELLED", "PREDICTED", "CONFIDENCE", "LOG LOSS", right=("CONFIDENCE", "LOG LOSS"))
        for one in model.worst_mistakes:
            names = escape(visible(one.true_category)), escape(visible(one.predicted_category))
            rows.add_row(escape(one.file_name), *names, percent(one.probability or 0), f"{one.log_loss or 0:.2f}")
    output().print(rows)


def print_doubts(model: ModelData) -> None:
    """The boxes to check."""
    if not model.doubts:
        return
    output().print("[bold]Boxes to check[/]: what was found in images that were not trained on contradicts them")
    rows = table("FILE", "BOX IS PROBABLY", "FOUND", "AT", "CONFIDENCE", right=("CONFIDENCE",))
    for one in model.doubts:
        wrong = f"not {one.region_category}" if one.kind is DoubtKind.CATEGORY else one.kind.value.lower()
        place = "[" + ", ".join(f"{value:.0f}" for value in one.box) + "]"
        names = escape(visible(wrong)), escape(visible(one.category))
        rows.add_row(escape(one.file_name), *names, escape(place), percent(one.confidence))
    output().print(rows)


def print_curve(model: ModelData) -> None:
    """Accuracy by training images."""
    curve = model.learning_curve
    if curve is None:
        return
    output().print(f"[bold]Learning curve[/] of heads on the features of {bare_name(curve.trial)}")
    rows = table("IMAGES PER CATEGORY", "TOP-1 ACCURACY", right=("IMAGES PER CATEGORY",))
    for point in curve.points:
        limits = f"({percent(point.interval.low)} to {percent(point.interval.high)})"
        rows.add_row(f"{point.images_per_category:.1f}", f"{percent(point.value)} {limits}")
    output().print(rows)


def print_advice(found: tuple[Advice, ...], *, json: bool) -> None:
    """What to do next: paragraphs, or a JSON document with the same sentences."""
    if json:
        document = {"advice": [{"question": one.question, "sentences": one.sentences} for one in found]}
        print_document(document)
        return
    for one in found:
        output().print(f"[bold]{one.question}[/]")
        for sentence in one.sentences:
            output().print(f"  {escape(sentence)}", soft_wrap=True)

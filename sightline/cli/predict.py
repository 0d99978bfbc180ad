"""`sightline predict`: analyze image files with a model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from google.rpc.status_pb2 import Status
from PIL.Image import Image
from rich.markup import escape
from rich.table import Table

from sightline.cli import drawing, prediction_table
from sightline.cli.console import Json, notes, output, print_document, print_json, progress_bar, table, to_dict, warn
from sightline.cli.formats import percent
from sightline.cli.frames import Ink, inks_of
from sightline.cli.lettering import MISSING, fonts_for, replaced
from sightline.cli.reporting import CommandError, report
from sightline.cli.result_options import SuggestedThresholds, Threshold, Top
from sightline.cli.session import session
from sightline.client.client import Client
from sightline.client.errors import SightlineError
from sightline.client.progress import silent
from sightline.client.results.kinds import ModelKind
from sightline.client.results.prediction import Prediction
from sightline.client.uploads import image_names
from sightline.text import shown
from sightline.v1 import prediction_service_pb2 as service

SHOWN_TAGS = 3
NOTHING = "[dim]nothing above the threshold[/]"


def _existing(text: str) -> Path:
    """The path of a file or folder; typer.BadParameter for an address, and for what does not exist."""
    if "://" in text:
        raise typer.BadParameter(f"'{text}' is an address, not a file or folder; download it first")
    path = Path(text)
    if not path.exists():
        raise typer.BadParameter(f"Path '{text}' does not exist.")
    return path


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.", parser=_existing)
    ],
    threshold: Threshold = None,
    suggested_thresholds: SuggestedThresholds = False,
    top: Top = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Also list the tags among which the true one is with this probability, such as 0.9 (classifiers only)."
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each image with its tags or objects to this folder.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write pictures to this folder that show what supports each first result."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line for each tag or object to this file, as CSV.")
    ] = None,
    feedback: Annotated[
        bool, typer.Option("--feedback/--no-feedback", help="Whether the predictor may keep uncertain images.")
    ] = True,
    json: Json = False,
) -> None:
    """Analyze images with a model.

    For one image, --json prints the response; for several and for folders, a list of {"id": file,
    "response" or "error": ...}.
    """
    if threshold is not None and suggested_thresholds:
        raise typer.BadParameter("it excludes --threshold; use only one of them", param_hint="--suggested-thresholds")
    with session() as client:
        files = _files(images)
        predictions = _ask(client, model, files, threshold, suggested_thresholds, top, coverage, feedback)
        taken = _taken(files, draw, explain)
        if explain:
            _explain_all(client, model, explain, [made for made in predictions if not made.error and made], taken)
        if csv:
            prediction_table.write(csv, predictions)
        drawn = _draw_all(draw, predictions, taken) if draw else {}
        if json and (len(files) > 1 or images[0].is_dir()):
            print_document([_entry(made) for made in predictions])
        elif json and predictions[0].message:
            print_json(predictions[0].message)
        elif not json and not csv:
            _print_predictions([made for made in predictions if not made.error], drawn, top or SHOWN_TAGS)
        codes = [_report(made.image, made.error) for made in predictions if made.error]
    raise typer.Exit(codes[-1] if codes else 0)


def _files(images: list[Path]) -> list[Path]:
    """The files, those of folders in the order of their names; CommandError for a folder without images."""
    files: list[Path] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
        elif inside := image_names(path, warn):
            files += [path / name for name in inside]
        else:
            raise CommandError(f"{path} has no images", fix="name image files, or a folder that has some")
    return files


def _ask(
    client: Client,
    model: str,
    images: list[Path],
    threshold: float | None,
    suggested: bool,
    top: int | None,
    coverage: float | None,
    feedback: bool,
) -> list[Prediction]:
    """A prediction for each image; ends with the first error that concerns all of them."""
    results = client.predict_many(
        model,
        images,
        threshold=threshold,
        suggested_thresholds=suggested,
        top=top,
        coverage=coverage,
        feedback=feedback,
    )
    made: list[Prediction] = []
    with silent("predict") if len(images) == 1 else progress_bar("predict") as bar:
        try:
            for prediction in results:
                made.append(prediction)
                bar.update(len(made) / len(images), "predicting", f"{len(made)} of {len(images)} images")
        except SightlineError as error:
            made.append(Prediction(str(images[len(made)]), error=error))
    return made


def _report(image: str, error: SightlineError) -> int:
    """Prints which image failed and why; returns the exit code."""
    if image not in error.message:
        notes().print(f"[bold]{escape(image)}[/]", soft_wrap=True)
    return report(error, notes())


def _draw_all(folder: Path, predictions: list[Prediction], taken: set[Path]) -> dict[str, Path]:
    """Writes a drawing of each prediction to the folder; returns their paths. Names that are taken get a number."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {prediction.image: prediction for prediction in predictions if not prediction.error}
    inks = inks_of(one.name for prediction in made.values() for one in prediction.objects)
    drawn: dict[str, Path] = {}
    for image, prediction in made.items():
        target = _free(folder, Path(image).stem, taken)
        drawn_image = _drawn(Path(image), prediction, inks)
        try:
            drawn_image.save(target)
        except OSError as error:
            raise CommandError(f"{target} cannot be written: {error}", fix="choose another folder") from error
        drawn[image] = target
    _note_replaced(made.values())
    return drawn


def _note_replaced(predictions: Iterable[Prediction]) -> None:
    """Says once which characters of the drawn names no font of this machine has."""
    names = {found.name for made in predictions for found in (*made.tags[: drawing.MAX_TAGS], *made.objects)}
    if characters := replaced(names):
        listed = escape(" ".join(characters))
        notes().print(f"note: drawn as {MISSING}, for lack of a font: {listed}", soft_wrap=True)
        install = " and ".join(fonts_for(characters))
        fix = f"install {install}" if install else "rename these categories: no font has all characters of the name"
        notes().print(f"fix: {fix}", soft_wrap=True)


def _explain_all(client: Client, model: str, folder: Path, predictions: list[Prediction], taken: set[Path]) -> None:
    """Writes an overlay for each prediction to the folder, and says where."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in predictions:
        found = client.explain(model, made.image, made[0].name)
        target = _free(folder, Path(made.image).stem, taken)
        target.write_bytes(found.overlay_png)
        notes().print(f"{escape(str(target))} shows what supports {escape(found.tag.name)}", soft_wrap=True)


def _taken(files: list[Path], *folders: Path | None) -> set[Path]:
    """What no picture replaces: the images, and whatever is in one of the folders if that has some of them."""
    taken = {file.resolve() for file in files}
    for folder in (folder.resolve() for folder in folders if folder):
        if any(file.parent == folder for file in taken):
            taken |= {one.resolve() for one in folder.iterdir()}
    return taken


def _free(folder: Path, stem: str, taken: set[Path]) -> Path:
    """`stem.png`, or the next of `stem-2.png`, ... that is not among the resolved paths, to which it is added."""
    target, number = folder / f"{stem}.png", 1
    while target.resolve() in taken:
        number += 1
        target = folder / f"{stem}-{number}.png"
    taken.add(target.resolve())
    return target


def _drawn(file: Path, prediction: Prediction, inks: Mapping[str, Ink]) -> Image:
    """The drawing of a prediction; CommandError if this machine cannot decode what the service could."""
    try:
        return drawing.draw(file, prediction, inks)
    except Exception as error:  # Pillow's plugins raise a dozen types
        raise CommandError(f"{file} cannot be drawn on", fix="leave it out, or leave out --draw") from error


def _print_predictions(predictions: list[Prediction], drawn: dict[str, Path], shown_tags: int) -> None:
    """Prints a line for each image with its tags, or for each object, by the kind of the model."""
    if not predictions:
        return
    if any(made.kind == ModelKind.DETECTOR for made in predictions):
        rows = _objects_table(predictions, drawn)
    else:
        rows = _tags_table(predictions, drawn, shown_tags)
    output().print(rows)


def _tags_table(predictions: list[Prediction], drawn: dict[str, Path], shown_tags: int) -> Table:
    covered = next((made.prediction_set.coverage for made in predictions if made.prediction_set), None)
    title = [f"SET AT {100 * covered:g} %"] if covered is not None else []
    rows = table(
        "IMAGE", "TAG", "CONFIDENCE", "NEXT BEST", *title, *(["DRAWN"] if drawn else []), right=("CONFIDENCE",)
    )
    for made in predictions:
        rest = ", ".join(f"{tag.name} {percent(tag.confidence)}" for tag in made.tags[1:shown_tags])
        first = (NOTHING, "")
        if made.tags:
            first = (f"[bold]{escape(made.tags[0].name)}[/]", percent(made.tags[0].confidence))
        names = [escape(", ".join(made.prediction_set.categories))] if made.prediction_set else []
        rows.add_row(escape(made.image), *first, f"[dim]{escape(rest)}[/]", *names, *_where(made.image, drawn))
    return rows


def _objects_table(predictions: list[Prediction], drawn: dict[str, Path]) -> Table:
    """Boxes are in pixels of the upright image; the image's file is only in its first line."""
    numbers = ("CONFIDENCE", "X", "Y", "W", "H")
    rows = table("IMAGE", "OBJECT", *numbers, *(["DRAWN"] if drawn else []), right=numbers)
    for made in predictions:
        head, tail = escape(made.image), _where(made.image, drawn)
        if not made.objects:
            rows.add_row(head, NOTHING, *[""] * len(numbers), *tail)
        for found in made.objects:
            place = (str(side) for side in (found.box.x, found.box.y, found.box.width, found.box.height))
            rows.add_row(head, f"[bold]{escape(found.name)}[/]", percent(found.confidence), *place, *tail)
            head, tail = "", [""] * len(tail)
    return rows


def _where(image: str, drawn: dict[str, Path]) -> list[str]:
    """The cell with the drawing's path, if there is such a column."""
    return [escape(str(drawn[image]))] if drawn else []


def _entry(made: Prediction) -> dict[str, object]:
    """One image as an AnalyzeImagesResponse. Its name need not be UTF-8, as those of messages must."""
    message = service.AnalyzeImagesResponse()
    if made.error:
        message.error.CopyFrom(_status(made.error))
    elif made.message:
        message.response.CopyFrom(made.message)
    return to_dict(message) | {"id": made.image}


def _status(error: SightlineError) -> Status:
    """The service's status, or one for a file that was not sent."""
    sent = error.details.status
    return Status.FromString(sent) if sent else Status(code=error.code, message=shown(error.message))

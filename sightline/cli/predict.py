"""`sightline predict`: what a model sees in image files."""

import json as jsonlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from PIL.Image import Image
from rich.markup import escape
from rich.table import Table

from sightline.cli import pictures
from sightline.cli.console import Json, escapes, notes, output, print_json, progress_bar, table, to_dict
from sightline.cli.failures import CommandError, report, report_status, status_of
from sightline.cli.formats import full_name, percent
from sightline.cli.frames import Ink, inks_of
from sightline.cli.session import session
from sightline.client.channel import MAX_MESSAGE_BYTES
from sightline.client.stubs import Stubs
from sightline.v1 import prediction_service_pb2 as service
from sightline.v1.prediction_pb2 import AnalyzeImageResponse, CustomModelResult

IN_FLIGHT = 8
MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # what a message can carry beside the rest of the request
INVALID_ARGUMENT = 3
SHOWN_TAGS = 3
NOTHING = "[dim]nothing above the threshold[/]"
UNNAMED = "image"  # what the service calls bytes that came without a name
UNAVAILABLE = 14
STOPPING = frozenset({5, 9, 12, 13, UNAVAILABLE, 16})  # with these codes the next image would fare no better


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image with what the model sees in it, or with the error of the call."""

    file: Path
    answer: AnalyzeImageResponse | None = None
    error: grpc.RpcError | None = None

    @property
    def status(self) -> Status:
        """Of the error, with the file's name where the service, which saw bytes only, says `image`."""
        assert self.error is not None, "it was answered"
        status = status_of(self.error)
        for packed in status.details:
            info = ErrorInfo()
            if packed.Unpack(info) and info.metadata.get("file") == UNNAMED:
                info.metadata["file"] = str(self.file)
                packed.Pack(info)
                status.message = f"{self.file}{status.message.removeprefix(UNNAMED)}"
        return status


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", exists=True, dir_okay=False)],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out results with a lower confidence, 0 to 1.")
    ] = None,
    suggested_thresholds: Annotated[
        bool,
        typer.Option(
            "--suggested-thresholds",
            help="Leave out results below the threshold that the model suggests for their category, as detectors do"
            " by default.",
        ),
    ] = False,
    top: Annotated[
        int | None, typer.Option(min=1, max=1000, help="At most so many results for each image, the best; else 100.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each image with its tags or objects into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a model sees in images.

    --json prints the response for one image; for several a list of {"id": file, "response" or "error": ...}.
    """
    if threshold is not None and suggested_thresholds:
        raise typer.BadParameter("it excludes --threshold; give one of the two", param_hint="--suggested-thresholds")
    question = service.AnalyzeImageRequest(
        model_name=full_name("models", model),
        score_threshold=threshold,
        use_suggested_thresholds=suggested_thresholds,
        max_results=top,
    )
    with session() as client:
        _refuse_too_large(images)
        predictions = list(_with_progress(client, question, images))
        drawn = _draw_all(draw, predictions) if draw else {}
        failed = [made for made in predictions if made.error]
        if json and len(images) > 1:
            print(jsonlib.dumps([_entry(made) for made in predictions], indent=2, ensure_ascii=escapes()))
        elif json and predictions[0].answer:
            print_json(predictions[0].answer)
        elif not json:
            _print_answers([made for made in predictions if made.answer], drawn, top or SHOWN_TAGS)
        code = 0
        for made in failed:
            code = _report(made, client)
    raise typer.Exit(code)


def _refuse_too_large(images: list[Path]) -> None:
    """CommandError that names the files that no call can carry, whatever the service allows."""
    sizes = {file: file.stat().st_size for file in images}
    if large := [f"{file} has {_mib(count)}" for file, count in sizes.items() if count > MAX_IMAGE_BYTES]:
        limit = f"a prediction can carry an image of at most {_mib(MAX_IMAGE_BYTES)}"
        fix = "scale the image down, or save it as JPEG, and repeat"
        raise CommandError(f"{', '.join(large)}; {limit}", fix=fix, code=INVALID_ARGUMENT)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def _report(made: Prediction, client: Stubs) -> int:
    """Says which image failed and why; returns the exit code."""
    assert made.error is not None
    if str(made.file) not in made.status.message:
        notes().print(f"[bold]{escape(str(made.file))}[/]", soft_wrap=True)
    if made.status.code == UNAVAILABLE:
        return report(made.error, notes(), client.addresses, client.credentials)
    return report_status(made.status, notes())


def analyze(client: Stubs, question: service.AnalyzeImageRequest, images: list[Path]) -> Iterator[Prediction]:
    """The answer to the question for each image, in the order of the images; several are under way at once.

    Ends early with an error that concerns every image, such as a model that does not exist.
    """

    def ask(file: Path) -> Prediction:
        request = service.AnalyzeImageRequest(image=file.read_bytes())
        request.MergeFrom(question)
        try:
            return Prediction(file, client.predictions.AnalyzeImage(request))
        except grpc.RpcError as error:
            return Prediction(file, error=error)

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        waiting = [threads.submit(ask, file) for file in images]
        for future in waiting:
            made = future.result()
            yield made
            if made.error and status_of(made.error).code in STOPPING:
                threads.shutdown(wait=False, cancel_futures=True)
                return


def _with_progress(client: Stubs, question: service.AnalyzeImageRequest, images: list[Path]) -> Iterator[Prediction]:
    if len(images) == 1:
        yield from analyze(client, question, images)
        return
    with progress_bar("predict") as bar:
        for number, made in enumerate(analyze(client, question, images), 1):
            bar.update(number / len(images), "asking", f"{number} of {len(images)} images")
            yield made


def _draw_all(folder: Path, predictions: list[Prediction]) -> dict[Path, Path]:
    """Writes each answered image into the folder; returns where it lies. Names that occur twice get a number."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [made.answer for made in predictions if made.answer]
    inks = inks_of(one.name for answer in answers for one in pictures.found_in(answer))
    drawn: dict[Path, Path] = {}
    taken: set[str] = set()
    for made in predictions:
        if made.answer:
            stem, number = made.file.stem, 1
            while f"{stem}.png" in taken:
                number += 1
                stem = f"{made.file.stem}-{number}"
            taken.add(f"{stem}.png")
            target = folder / f"{stem}.png"
            picture = _drawn(made.file, made.answer, inks)
            try:
                picture.save(target)
            except OSError as error:
                raise CommandError(f"{target} cannot be written: {error}", fix="choose another folder") from error
            drawn[made.file] = target
    return drawn


def _drawn(file: Path, answer: AnalyzeImageResponse, inks: Mapping[str, Ink]) -> Image:
    """The picture of an answer; CommandError where this machine cannot decode what the service could."""
    try:
        return pictures.draw(file, answer, inks)
    except Exception as error:  # Pillow's plugins raise a dozen types
        raise CommandError(f"{file} cannot be drawn on", fix="leave it out, or leave out --draw") from error


def _print_answers(predictions: list[Prediction], drawn: dict[Path, Path], shown_tags: int) -> None:
    """A line for each image with its tags, or for each object: a model gives all its answers in one of the two."""
    if not predictions:
        return
    answers = [(made.file, made.answer.custom_model_result) for made in predictions if made.answer]
    if any(result.HasField("objects_result") for _, result in answers):
        rows = _objects_table(answers, drawn)
    else:
        rows = _tags_table(answers, drawn, shown_tags)
    output().print(rows)


def _tags_table(answers: list[tuple[Path, CustomModelResult]], drawn: dict[Path, Path], shown_tags: int) -> Table:
    rows = table("IMAGE", "SEEN", "CONFIDENCE", "AND THEN", *(["DRAWN"] if drawn else []), right=("CONFIDENCE",))
    for file, result in answers:
        seen = [(tag.name, tag.confidence) for tag in result.tags_result.values]
        rest = ", ".join(f"{tag} {percent(score)}" for tag, score in seen[1:shown_tags])
        first = (f"[bold]{escape(seen[0][0])}[/]", percent(seen[0][1])) if seen else (NOTHING, "")
        rows.add_row(escape(str(file)), *first, f"[dim]{escape(rest)}[/]", *_where(file, drawn))
    return rows


def _objects_table(answers: list[tuple[Path, CustomModelResult]], drawn: dict[Path, Path]) -> Table:
    """The boxes are in pixels of the upright image; what belongs to an image as a whole stands in its first line."""
    numbers = ("CONFIDENCE", "X", "Y", "W", "H")
    rows = table("IMAGE", "OBJECT", *numbers, *(["DRAWN"] if drawn else []), right=numbers)
    for file, result in answers:
        head, tail = escape(str(file)), _where(file, drawn)
        if not result.objects_result.values:
            rows.add_row(head, NOTHING, *[""] * len(numbers), *tail)
        for found in result.objects_result.values:
            tag, box = found.tags[0], found.bounding_box
            place = (str(side) for side in (box.x, box.y, box.w, box.h))
            rows.add_row(head, f"[bold]{escape(tag.name)}[/]", percent(tag.confidence), *place, *tail)
            head, tail = "", [""] * len(tail)
    return rows


def _where(file: Path, drawn: dict[Path, Path]) -> list[str]:
    """The cell of the picture that was drawn, where there is such a column."""
    return [escape(str(drawn[file]))] if drawn else []


def _entry(made: Prediction) -> dict[str, object]:
    """One image as an AnalyzeImagesResponse."""
    message = service.AnalyzeImagesResponse(id=str(made.file))
    if made.answer:
        message.response.CopyFrom(made.answer)
    elif made.error:
        message.error.CopyFrom(made.status)
    return to_dict(message)

"""`sightline train`: from a folder of labelled images to a model, in one command."""

import re
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, notes, output, print_json, warn
from sightline.cli.datasets import prefixes_of, say
from sightline.cli.formats import parse_duration
from sightline.cli.models import print_model
from sightline.cli.reporting import CommandError
from sightline.cli.session import session
from sightline.cli.watching import watching
from sightline.client.client import Client
from sightline.client.errors import AlreadyExists, FailedPrecondition, InvalidArgument, SightlineError
from sightline.client.names import bare_name
from sightline.client.results.dataset import Dataset
from sightline.client.results.kinds import ModelState
from sightline.client.results.model import Model
from sightline.client.uploads import Reading, read_export
from sightline.importers.holdout import FEWEST, hold_out
from sightline.importers.model import BoxForm, Format
from sightline.importers.package import Package
from sightline.plurals import counted, listed

SHARE = 0.2  # of the images, set aside for testing
LEAST = 2  # classes, and images of each


def train_photos(
    photos: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder per class, or an export of another tool (see --format).")
    ],
    budget: Annotated[str, typer.Option(help="Compute budget, e.g. 90s, 5m or 1h30m. Waiting costs nothing.")] = "5m",
    name: Annotated[str, typer.Option(help="The name of dataset and model; by default that of PATH.")] = "",
    form: Annotated[Format | None, typer.Option("--format", help="The form of PATH; by default recognised.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder that image names are relative to.", file_okay=False)
    ] = None,
    boxes: Annotated[BoxForm | None, typer.Option(help="What the four numbers of a box in COCO or CSV are.")] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX=DIR", help="The folder DIR has the images whose URLs begin with PREFIX. Can be repeated."
        ),
    ] = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="The share of images to test on, unless PATH has a test split.")
    ] = SHARE,
    seed: Annotated[int, typer.Option(help="Decides which images are for testing.")] = 0,
    json: Json = False,
) -> None:
    """Register labelled images, set a part aside for testing, train a model, and report."""
    span = parse_duration(budget)
    reading = Reading(form=form, images=images, boxes=boxes, url_prefixes=prefixes_of(url or ()))
    with session() as client:
        package = read_export(photos, reading)
        require_classes(package)
        training, test = parts(package, test_share, seed)
        if not json:
            say(package, notes())
            if test or test_share:
                _say_parts(training, test)
        name = free_name(client, photos, name, tested=test is not None)
        dataset = client.datasets.register(name, training, wait=False, note=warn)
        tested = client.datasets.register(f"{name}-test", test, wait=False, note=warn) if test else None
        ready = client.datasets.wait(dataset)
        _warn_of_findings(ready)
        if tested:
            _warn_of_findings(client.datasets.wait(tested))
        model = _follow(client, _begun(client, name, ready, tested, span))
    if json:
        print_json(model.message)
        return
    print_model(model)
    output().print(f"predict: `sightline predict {escape(bare_name(model.name))} IMAGE... --draw seen`")


def parts(package: Package, share: float, seed: int) -> tuple[Package, Package | None]:
    """What to train and what to test on: the splits of the export, or a share of its images."""
    splits = package.imported.splits
    held = next((split for split in ("test", "val") if split in splits and len(splits) > 1), "")
    if not held:
        return hold_out(package, share, seed)
    paths = {placed.path for placed in package.placed}
    test = {placed.path for placed in package.placed if placed.image.split == held}
    if test == paths:
        problem = f"{package.imported.source}: all images are in the split {held}, which leaves none for training"
        raise CommandError(problem, fix=f"list images in the other splits that {held} does not have")
    return package.without(test), package.without(paths - test)


def require_classes(package: Package) -> None:
    """CommandError, before anything is uploaded, if there is too little to tell apart."""
    imported = package.imported
    counts = {name: images for name, (images, _) in imported.counts.items() if images}
    if not imported.detection and len(counts) < LEAST:
        there = f"only one class, {next(iter(counts))}" if counts else "no classes"
        fix = "name the folder above it, with a folder of photos for each class"
        raise CommandError(f"{imported.source} has {there}: a classifier needs at least two to tell apart", fix=fix)
    if rare := [name for name, images in counts.items() if images < LEAST]:
        fix = "add images of them, or leave them out"
        raise CommandError(f"{imported.source}: there are fewer than {LEAST} images of {listed(rare, 10)}", fix=fix)


def free_name(client: Client, photos: Path, name: str, *, tested: bool) -> str:
    """The given name, or one like the folder's that neither a dataset nor a model has; both services must respond.

    AlreadyExists if the given one is taken, or with `tested` that of the test dataset.
    """
    taken = {one.name for one in (*client.datasets.list(), *client.models.list())}
    if name:
        wanted = f"datasets/{name}", f"models/{name}", *((f"datasets/{name}-test",) if tested else ())
        if there := next((one for one in wanted if one in taken), ""):
            raise AlreadyExists(f"{there} exists", fix=f"choose another --name{_instead(name, taken)}")
        return name
    taken = set(map(bare_name, taken))
    plain = re.sub(r"[^a-zA-Z0-9._-]+", "-", photos.resolve().stem).strip("-._") or "photos"
    names = (plain[:200] if number == 1 else f"{plain[:200]}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken and f"{name}-test" not in taken)


def _instead(name: str, taken: set[str]) -> str:
    """How to train on a dataset that was registered before, if it has no model yet: `, or ...`."""
    if f"datasets/{name}" not in taken or f"models/{name}" in taken:
        return ""
    test = f" --test-dataset {name}-test" if f"datasets/{name}-test" in taken else ""
    return f", or train on it: `sightline models train {name} --dataset {name}{test} --budget 5m`"


def _say_parts(training: Package, test: Package | None) -> None:
    if test is not None:
        notes().print(f"{counted(len(training.included), 'image')} for training, {len(test.included)} for testing")
        return
    enough = len(training.included) >= FEWEST
    reason = "too many images look alike or are of rare categories" if enough else "there are too few images"
    notes().print(f"{reason} to set some aside for testing: training measures by cross-validation")


def _warn_of_findings(dataset: Dataset) -> None:
    if count := dataset.error_count + dataset.warning_count:
        name = bare_name(dataset.name)
        warn(f"{counted(count, 'finding')} about the images of {name}: `sightline datasets findings {name}`")


def _begun(client: Client, name: str, dataset: Dataset, tested: Dataset | None, budget: timedelta) -> Model:
    """The training; the datasets go if it is refused, as the repeated command registers them again."""
    try:
        return client.models.train(name, dataset=dataset, test_dataset=tested, budget=budget)
    except (FailedPrecondition, InvalidArgument):
        for registered in filter(None, (dataset, tested)):
            with suppress(SightlineError):
                client.datasets.delete(registered)
        raise


def _follow(client: Client, model: Model) -> Model:
    """The ended model; says as soon as it predicts, and that it goes on without this command."""
    try:
        return _watched(client, model)
    except KeyboardInterrupt:
        name = escape(bare_name(model.name))
        notes().print(f"the training goes on: `sightline models watch {name}`, or `sightline models cancel {name}`")
        raise


def _watched(client: Client, model: Model) -> Model:
    told = False
    with watching(notes()) as show, closing(client.models.watch(model)) as states:
        for state in states:
            show(state)
            if state.version and not told:
                told = True
                notes().print(f"it predicts already: `sightline predict {escape(bare_name(model.name))} IMAGE...`")
            if state.state == ModelState.FAILED and state.error:
                raise state.error
    return client.models.get(model.name)

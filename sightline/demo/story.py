"""What every demo tells: real images are registered, trained on within a budget, measured, and predicted.

The suite runs on this machine alone, and everything goes through the same code as the commands'.
"""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import grpc
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule

from sightline.cli import datasets, evaluations, models
from sightline.cli.console import facts, notes, output
from sightline.cli.failures import CommandError, ResourceFailed, report
from sightline.cli.formats import duration, percent
from sightline.cli.predict import analyze
from sightline.cli.quality import print_performance
from sightline.cli.up import print_death, start
from sightline.client.addresses import Addresses
from sightline.client.credentials import Credentials
from sightline.client.plurals import counted
from sightline.client.stubs import Stubs
from sightline.demo.digits import DigitsMissing, ImageSet
from sightline.local.stack import Stack, StackError
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.performance_pb2 import ModelPerformance
from sightline.v1.prediction_pb2 import AnalyzeImageResponse
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest

FOLDER = Path("demo")
Truth = TypeVar("Truth")
Answers = Sequence[tuple[Path, AnalyzeImageResponse, Truth]]  # images, what the model sees, and what is true


class DemoFailed(Exception):
    """The suite works, but not as well as the demo promises."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What training must reach on images that it never saw."""

    metric: str  # in words
    score: Callable[[ModelPerformance], float]
    least: float


@dataclass(frozen=True, slots=True)
class Story(Generic[Truth]):
    """What a demo shows."""

    name: str  # of the model; the datasets are `<name>-train` and `<name>-test`
    claim: str  # what Sightline does in it
    images: str  # which these are
    annotations: Dataset.AnnotationKind.ValueType
    model: TrainingParameters.ModelKind.ValueType
    write: Callable[[Path], tuple[ImageSet[Truth], ImageSet[Truth]]]  # training and test set into a folder
    budget_seconds: int
    limit_seconds: float  # then something is stuck
    promise: Promise
    shown: int  # images on the picture
    sheet: Callable[[Answers[Truth], ModelPerformance], Image.Image]
    picture: str  # the file in `demo` that it is written to


def tell(story: Story[Truth]) -> None:
    """Runs a demo; exits with 1 and the place of the logs if something fails."""
    console = output()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    try:
        asyncio.run(_run(story, folder, console))
    except (DemoFailed, StackError, DigitsMissing) as error:
        notes().print(f"[bold red]the demo failed:[/] {escape(str(error))}", soft_wrap=True)
    except (grpc.RpcError, CommandError, ResourceFailed) as error:
        notes().print("[bold red]the demo failed[/]")
        report(error, notes(), Addresses())
    except KeyboardInterrupt:
        _remove(folder)
        sys.exit(130)
    else:
        _remove(folder)
        return
    notes().print(f"The logs lie in {folder / 'suite' / 'logs'}", soft_wrap=True)
    sys.exit(1)


async def _run(story: Story[Truth], folder: Path, console: Console) -> None:
    """Starts the suite on free ports, tells the story, and stops the suite."""
    began = time.monotonic()
    console.print(Panel.fit(f"[bold]Sightline[/] {story.claim}, on this machine alone"))
    _chapter(console, "The suite: nats-server, three services, two workers")
    stack = Stack(folder / "suite", base_port=0, tell=lambda died: print_death(console, died))
    try:
        await start(stack, console)
        with Stubs(stack.addresses, Credentials()) as client:
            async with asyncio.timeout(story.limit_seconds):
                await asyncio.to_thread(_chapters, story, client, folder, console)
    except TimeoutError as error:
        raise DemoFailed(f"it has not ended after {duration(story.limit_seconds)}") from error
    finally:
        await stack.stop()
    console.print(f"\n[bold green]✓[/] all of it in {duration(time.monotonic() - began)}")


def _chapters(story: Story[Truth], client: Stubs, folder: Path, console: Console) -> None:
    """Register, train, evaluate, predict; DemoFailed if a promise is broken."""
    _chapter(console, f"Register: {story.images}")
    train, test = story.write(folder / "images")
    for part, made in (("train", train), ("test", test)):
        _register(story, client, f"datasets/{story.name}-{part}", made, console)
    _chapter(console, f"Train: at most {duration(story.budget_seconds)} of compute")
    model = _train(story, client)
    _print_training(console, model)
    _chapter(console, "Evaluate: on the images that training never saw")
    evaluations.start(client, model.name, "held-out", f"datasets/{story.name}-test")
    evaluation = evaluations.await_evaluation(client, f"{model.name}/evaluations/held-out")
    print_performance(evaluation.performance)
    _chapter(console, "Predict")
    sheet = _predict(story, client, test, evaluation)
    console.print(
        f"{counted(story.shown, 'prediction')} drawn in [bold]{escape(str(sheet.resolve()))}[/]", soft_wrap=True
    )
    judge(story.budget_seconds, story.promise, model, evaluation)


def _register(story: Story[Truth], client: Stubs, name: str, made: ImageSet[Truth], console: Console) -> None:
    datasets.register(client, name, story.annotations, made.coco)
    ready = datasets.await_dataset(client, name)
    counts, stats = ready.finding_counts, ready.stats
    found = f"{counted(counts.error, 'error')}, {counted(counts.warning, 'warning')}"
    categories = counted(stats.category_count, "category", "categories")
    boxes = (
        f"{counted(stats.annotation_count, 'box', 'boxes')}, " if story.annotations == Dataset.OBJECT_DETECTION else ""
    )
    console.print(f"{name}: {counted(stats.image_count, 'image')}, {boxes}{categories}, {found}")


def _train(story: Story[Truth], client: Stubs) -> Model:
    name = f"models/{story.name}"
    wanted = TrainingParameters(training_dataset=f"datasets/{story.name}-train", model_kind=story.model)
    wanted.time_budget.seconds = story.budget_seconds
    models.start(client, name, wanted)
    return models.await_model(client, name)


def _print_training(console: Console, model: Model) -> None:
    """Where the budget went."""
    charged = [entry for entry in model.ledger if entry.charged]
    trials = counted(len({entry.trial for entry in charged}), "trial")
    entries = counted(len(charged), "entry", "entries")
    reason = Model.StopReason.Name(model.stop_reason).lower().replace("_", " ")
    rows = [
        ("budget", duration(model.training_parameters.time_budget)),
        ("charged", f"{duration(model.training_cost)} for {trials}, in {entries} of the ledger"),
        ("ended", reason),
        *(("note", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))


def _predict(story: Story[Truth], client: Stubs, test: ImageSet[Truth], evaluation: Evaluation) -> Path:
    """Asks for images drawn at random from the test set; returns the picture with all answers."""
    files = random.Random(1).sample(sorted(test.truth), story.shown)  # noqa: S311 - a sample is no secret
    answers: list[tuple[Path, AnalyzeImageResponse, Truth]] = []
    for made in analyze(client, AnalyzeImageRequest(model_name=f"models/{story.name}"), files):
        if made.error:
            raise made.error
        assert made.answer is not None
        answers.append((made.file, made.answer, test.truth[made.file]))
    sheet = FOLDER / story.picture
    story.sheet(answers, evaluation.performance).save(sheet)
    return sheet


def judge(budget_seconds: int, promise: Promise, model: Model, evaluation: Evaluation) -> None:
    """DemoFailed if the budget was exceeded, the ledger does not add up, or too little was learnt."""
    charged = model.training_cost.ToTimedelta().total_seconds()
    ledger = sum(entry.duration.ToTimedelta().total_seconds() for entry in model.ledger if entry.charged)
    reached = promise.score(evaluation.performance)
    if charged > budget_seconds:
        raise DemoFailed(f"{charged:.1f} s were charged, more than the budget of {budget_seconds} s")
    if abs(charged - ledger) > 0.01:  # seconds, for rounding
        raise DemoFailed(f"the ledger adds up to {ledger:.2f} s, but {charged:.2f} s were charged")
    if reached < promise.least:
        raise DemoFailed(f"{promise.metric} is {percent(reached)}, less than {percent(promise.least)}")


def _chapter(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"), width=min(console.width, 80))


def _remove(folder: Path) -> None:
    """The demo's suite and images; the picture stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)

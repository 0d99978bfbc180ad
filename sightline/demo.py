"""`python -m sightline.demo`: the whole story on real images, in a few minutes, on this machine alone.

Handwritten digits are split in train and test, registered, trained within a budget, evaluated on the held-out images
and predicted, through the same code as the commands'. Ends with 0 if top-1 accuracy and budget are kept.
"""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import grpc
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule

from sightline import digits
from sightline.cli import datasets, evaluations, models
from sightline.cli.console import facts, notes, output
from sightline.cli.failures import CommandError, ResourceFailed, report
from sightline.cli.formats import duration, percent
from sightline.cli.predict import analyze
from sightline.cli.up import print_death, start
from sightline.client import Client
from sightline.pictures import Cell, contact_sheet
from sightline.stack import Stack, StackError
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model, TrainingParameters

FOLDER = Path("demo")
BUDGET_SECONDS = 150
LIMIT_SECONDS = 600.0  # then something is stuck
GOAL = 0.95  # top-1 accuracy on images that training never saw
SIDE = 64  # pixels to which the scans are enlarged
SHOWN = 24  # images on the contact sheet
TRAIN, TEST, MODEL = "datasets/digits-train", "datasets/digits-test", "models/digits"


class DemoFailed(Exception):
    """The suite works, but not as well as the demo promises."""


def main() -> None:
    """Runs the demo; exits with 1 and the place of the logs if something fails."""
    console = output()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    try:
        asyncio.run(_run(folder, console))
    except (DemoFailed, StackError, digits.DigitsMissing) as error:
        notes().print(f"[bold red]the demo failed:[/] {escape(str(error))}", soft_wrap=True)
    except (grpc.RpcError, CommandError, ResourceFailed) as error:
        notes().print("[bold red]the demo failed[/]")
        report(error, notes(), Client().addresses)
    except KeyboardInterrupt:
        _remove(folder)
        sys.exit(130)
    else:
        _remove(folder)
        return
    notes().print(f"The logs lie in {folder / 'suite' / 'logs'}", soft_wrap=True)
    sys.exit(1)


async def _run(folder: Path, console: Console) -> None:
    """Starts the suite on free ports, tells the story, and stops the suite."""
    began = time.monotonic()
    console.print(Panel.fit("[bold]Sightline[/] learns to read handwritten digits, on this machine alone"))
    _chapter(console, "The suite: nats-server, three services, two workers")
    stack = Stack(folder / "suite", base_port=0, tell=lambda died: print_death(console, died))
    try:
        await start(stack, console)
        with Client(stack.addresses) as client:
            async with asyncio.timeout(LIMIT_SECONDS):
                await asyncio.to_thread(_story, client, folder, console)
    except TimeoutError as error:
        raise DemoFailed(f"it has not ended after {duration(LIMIT_SECONDS)}") from error
    finally:
        await stack.stop()
    console.print(f"\n[bold green]✓[/] all of it in {duration(time.monotonic() - began)}")


def _story(client: Client, folder: Path, console: Console) -> None:
    """Register, train, evaluate, predict; DemoFailed if a promise is broken."""
    _chapter(console, "Register: 1,797 scans, a fifth of them held out")
    train, test = digits.write(folder / "images", side=SIDE)
    for name, made in ((TRAIN, train), (TEST, test)):
        datasets.register(client, name, Dataset.IMAGE_CLASSIFICATION, made.coco)
        ready = datasets.await_dataset(client, name)
        counts = ready.finding_counts
        found = f"{counts.error} errors, {counts.warning} warnings"
        console.print(f"{name}: {ready.stats.image_count} images, {ready.stats.category_count} categories, {found}")
    _chapter(console, f"Train: at most {duration(BUDGET_SECONDS)} of compute")
    model = _train(client)
    _print_training(console, model)
    _chapter(console, "Evaluate: on the images that training never saw")
    evaluations.start(client, MODEL, "held-out", TEST)
    evaluation = evaluations.await_evaluation(client, f"{MODEL}/evaluations/held-out")
    models.print_performance(evaluation.performance)
    _chapter(console, "Predict")
    sheet = _predict(client, test, evaluation)
    console.print(f"{SHOWN} predictions drawn in [bold]{escape(str(sheet.resolve()))}[/]", soft_wrap=True)
    _judge(model, evaluation)


def _train(client: Client) -> Model:
    wanted = TrainingParameters(training_dataset=TRAIN, model_kind=TrainingParameters.GENERIC_CLASSIFIER)
    wanted.time_budget.seconds = BUDGET_SECONDS
    models.start(client, MODEL, wanted)
    return models.await_model(client, MODEL)


def _print_training(console: Console, model: Model) -> None:
    """Where the budget went."""
    charged = [entry for entry in model.ledger if entry.charged]
    trials = len({entry.trial for entry in charged})
    reason = Model.StopReason.Name(model.stop_reason).lower().replace("_", " ")
    rows = [
        ("budget", duration(model.training_parameters.time_budget)),
        (
            "charged",
            f"{duration(model.training_cost)} for {trials} trials, in {len(charged)} entries of the ledger",
        ),
        ("ended", reason),
        *(("note", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))


def _predict(client: Client, test: digits.DigitSet, evaluation: Evaluation) -> Path:
    """Asks for images drawn at random from the test set; returns the picture with all answers."""
    files = random.Random(1).sample(sorted(test.truth), SHOWN)  # noqa: S311 - a sample is no secret
    cells: list[Cell] = []
    for made in analyze(client, MODEL, files):
        if made.error:
            raise made.error
        assert made.answer is not None
        tags = made.answer.custom_model_result.tags_result.values
        best = (tags[0].name, tags[0].confidence) if tags else ("nothing", 0.0)
        cells.append(Cell(made.file, *best, test.truth[made.file]))
    top1 = percent(evaluation.performance.accuracy_top1)
    sheet = FOLDER / "predictions.png"
    title = f"Handwritten digits the model never saw  ·  top-1 {top1} on {evaluation.performance.image_count} images"
    contact_sheet(cells, title).save(sheet)
    return sheet


def _judge(model: Model, evaluation: Evaluation) -> None:
    """DemoFailed if the budget was exceeded, the ledger does not add up, or too little was learnt."""
    charged = model.training_cost.ToTimedelta().total_seconds()
    ledger = sum(entry.duration.ToTimedelta().total_seconds() for entry in model.ledger if entry.charged)
    top1 = evaluation.performance.accuracy_top1
    if charged > BUDGET_SECONDS:
        raise DemoFailed(f"{charged:.1f} s were charged, more than the budget of {BUDGET_SECONDS} s")
    if abs(charged - ledger) > 0.01:  # seconds, for rounding
        raise DemoFailed(f"the ledger adds up to {ledger:.2f} s, but {charged:.2f} s were charged")
    if top1 < GOAL:
        raise DemoFailed(f"top-1 accuracy is {percent(top1)}, less than {percent(GOAL)}")


def _chapter(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"), width=min(console.width, 80))


def _remove(folder: Path) -> None:
    """The demo's suite and images; the picture stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

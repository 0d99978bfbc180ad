"""Shows a training while it runs: a table that is redrawn in place, or a line for each change."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from sightline.cli.console import facts
from sightline.cli.formats import percent
from sightline.client.names import bare_name
from sightline.client.progress import doing, metric_name, why_waiting
from sightline.client.quantities import duration
from sightline.client.results.model import ModelData
from sightline.client.results.progress import RunningWork
from sightline.plurals import counted

RUNGS = {0: "heads on frozen features", 1: "fine-tuning"}
STEPS = {
    "preparing": "fetching images and weights",
    "features": "computing features",
    "fit": "fitting the head",
    "train": "training",
    "calibrate": "calibrating",
    "evaluate": "measuring",
    "bundle": "writing the result",
}
STEP = 0.1  # of a trial: smaller progress is no change


@contextmanager
def watching(console: Console) -> Generator[Callable[[ModelData], None]]:
    """Yields what shows a model's current state."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda model: live.update(facts(rows(model)), refresh=True)
        return
    last: tuple[object, ...] = ()

    def show(model: ModelData) -> None:
        nonlocal last
        if (present := _changeable(model)) != last:
            last = present
            console.print(line(model), markup=False, soft_wrap=True)

    yield show


def rows(model: ModelData) -> list[tuple[str, str]]:
    """Everything that is known of a training, as names with values."""
    progress = model.progress
    return [
        ("training", escape(f"{bare_name(model.name)} on {bare_name(model.dataset)}")),
        ("doing", escape(f"{100 * progress.fraction:.0f} %  {doing(model)}")),
        *(("running", escape(running(work))) for work in progress.running),
        *(("rung", _rung(one.rung, one.done, one.running, one.waiting)) for one in progress.rungs),
        ("best so far", escape(best(model))),
        ("budget", f"{duration(progress.budget_used)} used, {duration(progress.budget_left)} left"),
        ("time left", time_left(model)),
    ]


def line(model: ModelData) -> str:
    """The same in one line."""
    progress = model.progress
    parts = [
        f"{100 * progress.fraction:3.0f} %  {doing(model)}",
        *(running(work) for work in progress.running),
        f"{counted(progress.trials_done, 'trial')} done" if progress.trials_done else "",
        best(model),
        f"{duration(progress.budget_used)} of {duration(model.budget)} used",
        time_left(model),
    ]
    return f"{bare_name(model.name)}: " + " · ".join(part for part in parts if part)


def running(work: RunningWork) -> str:
    """`t001 mobilenet_v2 linear: computing features, 43 %`."""
    what = " ".join(part for part in (bare_name(work.name), work.recipe) if part)
    return f"{what}: {STEPS.get(work.step, work.step)}, {100 * work.fraction:.0f} %"


def best(model: ModelData) -> str:
    """`94.1 % top-1 accuracy (90.2 % to 96.5 %) by t001`; empty before there is one."""
    progress = model.progress
    if progress.metric_value is None:
        return ""
    limits = progress.metric_interval
    interval = f" ({percent(limits.low)} to {percent(limits.high)})" if limits else ""
    return f"{percent(progress.metric_value)} {metric_name(progress.metric)}{interval} by {bare_name(model.best_trial)}"


def time_left(model: ModelData) -> str:
    """`about 2m left, an estimate`; empty before there is one."""
    left = model.progress.estimated_time_left
    if left is None:
        return ""
    seconds = left.total_seconds()
    rounded = round(seconds, -1) if seconds >= 100 else round(seconds)
    return f"about {duration(rounded)} left, an estimate"


def _rung(number: int, done: int, running: int, waiting: int) -> str:
    counts = ((done, "done"), (running, "running"), (waiting, "waiting"))
    trials = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"{number} {RUNGS.get(number, '')}: {trials}"


def _changeable(model: ModelData) -> tuple[object, ...]:
    """What makes a new line: anything but time and small steps of progress."""
    progress = model.progress
    works = tuple((work.name, work.step, work.fraction // STEP) for work in progress.running)
    return (model.state, why_waiting(progress) or progress.phase, works, progress.trials_done, best(model))

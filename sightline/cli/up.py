"""`sightline up`: the whole suite on this machine, until Ctrl-C."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from sightline.cli.console import facts, output, table
from sightline.cli.failures import CommandError
from sightline.cli.session import session
from sightline.client.addresses import VARIABLES
from sightline.local.ports import HOST

if TYPE_CHECKING:
    from sightline.local.processes import Died
    from sightline.local.stack import Stack

DATA = Path(".sightline")


def up(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that holds everything.", file_okay=False)
    ] = DATA,
    base_port: Annotated[
        int,
        typer.Option(
            min=0, max=65533, help="The dataset service's port; trainer and predictor take the next two. 0: free ones."
        ),
    ] = 50051,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65000, help="Serve /metrics of each process from this port on, for Prometheus. 0: free ports."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many trials train at once.")] = 1,
) -> None:
    """Run the whole suite on this machine until Ctrl-C; a later `up` on the same folder goes on with what is there."""
    with session():
        try:
            from sightline.local.stack import Stack, StackError  # noqa: PLC0415 - needs packages that a mere caller lacks
        except ImportError as error:
            raise CommandError(
                f"the services are not installed here ({error.name} is missing)",
                fix="pip install 'sightline-services[all]'",
            ) from error
        console = output()
        stack = Stack(
            data,
            base_port=base_port,
            metrics_port=metrics_port,
            workers=workers,
            tell=lambda died: print_death(console, died),
        )
        try:
            asyncio.run(_run(stack, console))
        except StackError as error:
            raise CommandError(str(error)) from error


async def _run(stack: "Stack", console: Console) -> None:
    """Starts, says where everything is, and waits for a signal; a second signal kills at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(start(stack, console), name="start")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _asked_to_stop, stop, starting)
    try:
        await starting
    except asyncio.CancelledError:
        console.print("stopped before everything had started")
        return
    print_stack(stack, console)
    console.print("\nCtrl-C stops everything.", style="dim")
    await stop.wait()
    console.print("stopping ...")
    await stack.stop()
    console.print(
        f"stopped; `sightline up --data {escape(str(stack.data))}` goes on with what is there", soft_wrap=True
    )


def _asked_to_stop(stop: asyncio.Event, starting: "asyncio.Task[None]") -> None:
    if stop.is_set():
        return
    stop.set()
    starting.cancel()


async def start(stack: "Stack", console: Console) -> None:
    """Starts the stack and shows what is still awaited."""
    waiting = list(stack.names)

    def ready(name: str) -> None:
        waiting.remove(name)
        console.print(f"[green]✓[/] {name}")
        status.update(_awaited(waiting))

    with console.status(_awaited(waiting)) as status:
        stack.on_ready(ready)
        await stack.start()


def print_stack(stack: "Stack", console: Console) -> None:
    """Where the services listen, and where what they write lies."""
    rows = table("SERVICE", "ADDRESS", "VARIABLE FOR CALLERS", "LOG")
    for name, variable in VARIABLES.items():
        log = stack.logs / f"{name}.log"
        rows.add_row(f"[bold]{name}[/]", escape(str(getattr(stack.addresses, name))), variable, escape(_short(log)))
    console.print(rows)
    kept = [("records", stack.nats_url), ("blobs", _short(stack.data / "store")), ("all logs", _short(stack.logs))]
    if stack.metrics_ports:
        shown = (f"{name} {HOST}:{port}" for name, port in stack.metrics_ports.items())
        kept.append(("metrics", ", ".join(shown)))
    console.print(facts((name, escape(value)) for name, value in kept))


def _awaited(names: list[str]) -> str:
    return f"starting {', '.join(names)} ..." if names else "started"


def _short(path: Path) -> str:
    """Relative to where the reader is, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def print_death(console: Console, died: "Died") -> None:
    """What died, when it starts again, and the end of its log."""
    console.print(
        f"[bold red]{died.name} died[/] ({died.how}); it starts again in {died.pause_seconds:g} s. Its last words:"
    )
    console.print(died.last_words or "(none)", style="dim", markup=False, no_wrap=True, overflow="ellipsis")

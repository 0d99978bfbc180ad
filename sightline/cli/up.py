"""`sightline up`: the whole suite on this machine, until Ctrl-C."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sightline.cli.console import facts, output, table
from sightline.cli.reporting import CommandError
from sightline.cli.session import session
from sightline.client.transport.addresses import VARIABLES
from sightline.local.claims import StackError
from sightline.local.ports import GATEWAY, HOST

if TYPE_CHECKING:
    from sightline.local.processes import Died
    from sightline.local.stack import Stack

DATA = Path(".sightline")


def up(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for all data of the suite.", file_okay=False)
    ] = DATA,
    base_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65532,
            help="The dataset service's port; trainer, predictor and gateway use the next three. 0: free ports.",
        ),
    ] = 50051,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65000, help="Serve each process's /metrics for Prometheus, from this port on. 0: free ports."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="The number of trials that train at the same time.")] = 1,
) -> None:
    """Run the whole suite on this machine until Ctrl-C. Run it again on the same folder to continue."""
    with session():
        try:
            from sightline.local.stack import Stack  # noqa: PLC0415 - needs packages that callers lack
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
            on_death=lambda died: print_death(console, died),
        )
        try:
            asyncio.run(_run(stack, console))
        except StackError as error:
            raise CommandError(str(error)) from error


async def _run(stack: "Stack", console: Console) -> None:
    """Starts the suite, prints its addresses and folders, and stops it after a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(start(stack, console), name="start")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(number, _asked_to_stop, stop, starting)
    try:
        await starting
    except asyncio.CancelledError:
        console.print("stopped before everything was started")
        return
    try:
        print_stack(stack, console)
        console.print("\nCtrl-C stops everything.", style="dim")
        await stop.wait()
        _tell(console, "stopping ...")
    finally:
        await stack.stop()
    again = f"stopped; `sightline up --data {escape(str(stack.data))}` continues where this ended"
    _tell(console, again, soft_wrap=True)


def _asked_to_stop(stop: asyncio.Event, starting: "asyncio.Task[None]") -> None:
    if stop.is_set():
        return
    stop.set()
    starting.cancel()


async def start(stack: "Stack", console: Console) -> None:
    """Starts the stack, and shows which parts have not started yet."""
    waiting = list(stack.names)

    def ready(name: str) -> None:
        waiting.remove(name)
        console.print(f"[green]✓[/] {name}")
        status.update(_starting(waiting))

    with console.status(_starting(waiting)) as status:
        stack.on_ready(ready)
        await stack.start()


def print_stack(stack: "Stack", console: Console) -> None:
    """Prints the services' addresses, and where their data and logs are."""
    rows = table("SERVICE", "ADDRESS", "VARIABLE FOR CALLERS", "LOG")
    for name, variable in VARIABLES.items():
        log = stack.logs / f"{name}.log"
        rows.add_row(f"[bold]{name}[/]", escape(str(getattr(stack.addresses, name))), variable, escape(_short(log)))
    rows.add_row(f"[bold]{GATEWAY}[/]", escape(stack.gateway), "", escape(_short(stack.logs / f"{GATEWAY}.log")))
    console.print(rows)
    kept = [
        ("studio", f"{stack.gateway}/studio"),
        ("records", f"nats://{stack.nats_url.rpartition('@')[2]}"),
        ("blobs", _short(stack.data / "store")),
        ("all logs", _short(stack.logs)),
    ]
    if stack.metrics_ports:
        shown = (f"{name} {HOST}:{port}" for name, port in stack.metrics_ports.items())
        kept.append(("metrics", ", ".join(shown)))
    console.print(facts((name, escape(value)) for name, value in kept))


def _starting(names: list[str]) -> str:
    return f"starting {', '.join(names)} ..." if names else "started"


def _short(path: Path) -> str:
    """The path, relative to the working directory if it is inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def print_death(console: Console, died: "Died") -> None:
    """Prints what died, when it will be restarted, and the end of its log."""
    how = f"({died.how}); it is restarted in {died.pause_seconds:g} s. The end of its log:"
    _tell(console, f"[bold red]{died.name} died[/] {how}")
    _tell(console, died.log_tail or "(empty)", style="dim", markup=False, no_wrap=True, overflow="ellipsis")


def _tell(console: Console, text: str, **how: Any) -> None:
    """Prints the text, unless its terminal, pipe or disk takes no more: the suite does not depend on that."""
    with suppress(OSError, SystemExit):  # Rich ends the process when the reader of a pipe is gone
        console.print(text, **how)

"""Training children as the worker sees them: processes that run one task, started ahead of time.

Importing torch takes seconds; a spare child that has imported it waits for the next task, so that a trial starts at
once.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

from services.kit.log import Log
from services.kit.settings import secret_variables
from services.trainer.framing import frame, receive_message_async
from services.trainer.messages import Message, Ready, Signal, Task, Unusable
from services.trainer.settings import TrainerSettings

COMMAND = (sys.executable, "-X", "faulthandler", "-m", "services.trainer.engine")
# glibc keeps what tensors have freed: it would give large ones back after each layer, and the kernel, which clears
# every page before it gives it again, took a third of the time of a step (docs/benchmarks.md).
ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
START_SECONDS = 120.0  # after which a child that is not ready is given up
HANG_SECONDS = 300.0  # without a message, after which a child hangs
SILENT_SECONDS = 2.0  # between two checks whether a silent child is alive
TRACE_SECONDS = 2.0  # for a hanging child to print where it hangs
KILL_SECONDS = 30.0  # after which a killed process that is still there never ends: a driver does not return
POLL_SECONDS = 0.02
LAST_OUTPUT_SECONDS = 1.0  # for a dead child's output, in case another process holds its standard error open
OUTPUT_SECONDS = 0.2  # output within this time is one log record: a traceback is written piece by piece
MAX_OUTPUT_BYTES = 16 * 1024  # of one log record
SPARE_DELAY_SECONDS = 5.0  # starting a spare at once would slow down the trial's first seconds

_log = Log(__name__)


class ChildDied(Exception):
    """The child ended, or sent an invalid message, before it delivered."""


class ChildNotStarted(ChildDied):
    """The child did not become ready, for which no task is to blame."""


class ChildHung(ChildDied):
    """The child sent nothing for too long, and was ended."""


class DeviceUnusable(Exception):
    """The device cannot be used on this machine, or no longer; the message says why."""


class Child:
    """A child process that has sent Ready."""

    def __init__(
        self, process: Process, output: asyncio.Task[None], ready: Ready, hang_seconds: float = HANG_SECONDS
    ) -> None:
        self._process = process
        self._output = output
        self._hang_seconds = hang_seconds
        self.ready = ready

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still running."""
        return self._process.returncode is None

    async def run(self, task: Task) -> AsyncGenerator[Message]:
        """Sends the task and yields the child's messages; the caller stops after the last one.

        ChildDied, or ChildHung after `hang_seconds` without a message.
        """
        assert self._process.stdin is not None, "stdin, stdout and stderr are pipes"
        try:
            self._process.stdin.write(frame(task))
            await self._process.stdin.drain()
            while True:
                yield await self._receive()
        except (EOFError, ConnectionError, ValueError) as error:
            status = await self.end()
            raise ChildDied(f"the training process ended with status {status} ({type(error).__name__})") from error
        except ChildHung:
            await self._print_traceback()
            await self.end()
            raise

    def tell(self, signal: Signal) -> None:
        """Sends a signal to a child that has its task; does nothing if the child is dying."""
        assert self._process.stdin is not None, "stdin, stdout and stderr are pipes"
        with suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(frame(signal))

    async def _receive(self) -> Message:
        """The next message; EOFError at the end of the pipe, or if the process ended and left it open; ChildHung.

        Silence is counted in checks, not read from a clock: while the worker itself is paused, it hears nothing.
        """
        assert self._process.stdout is not None, "stdin, stdout and stderr are pipes"
        reading = asyncio.ensure_future(receive_message_async(self._process.stdout))
        ended, silent_seconds = False, 0.0
        try:
            while not (await asyncio.wait([reading], timeout=SILENT_SECONDS))[0]:
                if ended:
                    raise EOFError("it ended and left the pipe open")
                ended = not self.alive  # its last message may still be in the pipe: wait once more
                silent_seconds += SILENT_SECONDS
                if silent_seconds >= self._hang_seconds and not ended:
                    raise ChildHung(f"the training process sent nothing for {self._hang_seconds:g} s and was ended")
            return reading.result()
        finally:
            reading.cancel()

    async def _print_traceback(self) -> None:
        """Has a child that hangs print its stacks to the log, by faulthandler, which ends it."""
        self._signal(signal.SIGABRT)
        with suppress(DeviceUnusable):
            await self._exit_status(TRACE_SECONDS)

    async def end(self) -> int:
        """Kills it if it still runs, and returns its exit status; DeviceUnusable if it cannot be killed."""
        self._signal(signal.SIGKILL)
        status = await self._exit_status(KILL_SECONDS)
        await asyncio.wait([self._output], timeout=LAST_OUTPUT_SECONDS)
        # Closes our ends of the pipes; asyncio does so only once the other ends are closed.
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way
        return status

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)  # Process.kill would reap one that has ended, and lose its status

    async def _exit_status(self, seconds: float) -> int:
        """Its status once it has ended; DeviceUnusable if it still runs after `seconds`."""
        # Process.wait also waits for the pipes to close, which a pipe that nobody reads never does.
        for _ in range(max(1, round(seconds / POLL_SECONDS))):
            if (status := self._process.returncode) is not None:
                return status
            await asyncio.sleep(POLL_SECONDS)
        raise DeviceUnusable(f"process {self.pid} cannot be killed: it waits for a driver that does not return")


class ChildPool:
    """Starts children and keeps one spare. After `close` no spare runs; whoever takes a child must end it."""

    def __init__(
        self,
        threads: int,
        command: Sequence[str] = COMMAND,
        start_seconds: float = START_SECONDS,
        *,
        hang_seconds: float = HANG_SECONDS,
        spares: bool = True,  # while a child works; a worker with `--once` needs none
        temporary: Path | None = None,  # where children put temporary files
    ) -> None:
        self._hang_seconds = hang_seconds
        self._spares = spares
        self._command = command
        self._start_seconds = start_seconds
        self._told = False
        secrets = secret_variables(TrainerSettings)
        kept = {name: value for name, value in os.environ.items() if name not in secrets}
        self._environment = kept | ALLOCATION | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        if temporary:
            self._environment["TMPDIR"] = str(temporary)
        self._spare: asyncio.Task[Child] | None = None
        self._hurry = asyncio.Event()
        self._device = ""  # of the first child
        self.unusable: DeviceUnusable | None = None  # once a child has reported it, or one cannot be killed

    @property
    def failed(self) -> bool:
        """Whether the last child did not start."""
        spare = self._spare
        if spare is None or not spare.done() or spare.cancelled():
            return False
        return isinstance(spare.exception(), ChildNotStarted)

    def prepare(self, delay_seconds: float = 0.0) -> None:
        """Starts a spare after the delay, unless there is one; without `spares`, only if there is no delay."""
        if (self._spare is None or self.failed) and (self._spares or not delay_seconds):
            self._hurry = asyncio.Event()
            self._spare = asyncio.create_task(self._start(delay_seconds, self._hurry), name="spare child")

    async def ready(self, stop: asyncio.Event) -> Child | None:
        """The spare once it can take a task, without taking it; None if `stop` is set first.

        ChildNotStarted, DeviceUnusable.
        """
        self.prepare()
        assert self._spare is not None, "prepare starts one"
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([self._spare, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return self._spare.result() if self._spare.done() else None

    async def take(self) -> Child:
        """A child that is ready: the spare, or a new one if the spare has died.

        ChildNotStarted; DeviceUnusable, which is permanent.
        """
        child = await self._take_spare()
        return child if child.alive else await self._take_spare()

    async def _take_spare(self) -> Child:
        self.prepare()
        assert self._spare is not None, "prepare starts one"
        self._hurry.set()
        child = await asyncio.shield(self._spare)  # if the taker is cancelled, the spare stays for the next
        self._spare = None
        return child

    async def close(self) -> None:
        """Ends the spare."""
        spare, self._spare = self._spare, None
        if spare is None:
            return
        spare.cancel()
        await asyncio.wait([spare])
        if not spare.cancelled() and spare.exception() is None:
            await spare.result().end()

    async def _start(self, delay_seconds: float, hurry: asyncio.Event) -> Child:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_seconds):
                await hurry.wait()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self._environment
            )
        except OSError as error:
            raise ChildNotStarted(f"the training process did not start: {error}") from error
        assert process.stdout is not None, "stdin, stdout and stderr are pipes"
        assert process.stderr is not None, "stdin, stdout and stderr are pipes"
        output = asyncio.create_task(_log_output(process.stderr), name="child output")
        try:
            async with asyncio.timeout(self._start_seconds):
                ready = await receive_message_async(process.stdout)
            if isinstance(ready, Unusable):
                raise DeviceUnusable(ready.problem)
            if not isinstance(ready, Ready):
                raise ChildNotStarted(f"the training process began with {type(ready).__name__}")
            self._device = self._device or ready.device
            if ready.device != self._device:  # its trials were planned for that device's speed
                raise DeviceUnusable(f"{self._device} was used until now, but {ready.problem or 'it has gone'}")
        except (EOFError, ValueError, TimeoutError) as error:
            status = await Child(process, output, NOT_READY).end()
            raise ChildNotStarted(f"the training process did not start; it ended with status {status}") from error
        except BaseException as error:
            if isinstance(error, DeviceUnusable):
                self.unusable = error
            await Child(process, output, NOT_READY).end()
            raise
        if ready.problem:
            _log.warning("device_unusable", problem=ready.problem)
        self._tell(ready)
        return Child(process, output, ready, self._hang_seconds)

    def _tell(self, ready: Ready) -> None:
        """Logs once what keeps the children from doing harm."""
        if not self._told:
            self._told = True
            limit = ready.memory_limit_bytes
            _log.info("training_child_confined", network=ready.network, files=ready.files, memory_limit_bytes=limit)


async def _log_output(stream: asyncio.StreamReader) -> None:
    """Logs what a child prints to standard error, until end of file.

    The worker reads it, not the child itself, so that the output of a crash is not lost.
    """
    while text := await stream.read(MAX_OUTPUT_BYTES):
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_SECONDS):
                while len(text) < MAX_OUTPUT_BYTES and (more := await stream.read(MAX_OUTPUT_BYTES)):
                    text += more
        _log.warning("child_printed", text=text.decode(errors="replace").strip())


NOT_READY = Ready(device="", import_seconds=0.0)

"""Training children as the worker sees them: processes that take one task, started ahead of time.

Importing torch takes seconds; a spare child that has done so waits for the next task, so that a trial begins at once.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from services.kit.log import Log
from services.trainer.framing import frame, receive_message_async
from services.trainer.messages import Message, Ready, Signal, Task, Unusable

COMMAND = (sys.executable, "-X", "faulthandler", "-m", "services.trainer.engine")
START_SECONDS = 120.0  # a child that is not ready by then will never be
SILENT_SECONDS = 2.0  # between two looks whether a child that says nothing is still there
POLL_SECONDS = 0.02
LAST_WORDS_SECONDS = 1.0  # for what a dead child wrote, should somebody else hold its standard error open
WORDS_SECONDS = 0.2  # what is printed within them is one record: a traceback is written piece by piece
MAX_WORDS_BYTES = 16 * 1024  # of one record in the log
SPARE_DELAY_SECONDS = 5.0  # a new spare is not started beside a trial's first seconds, which it would slow down

_log = Log(__name__)


class ChildDied(Exception):
    """The child ended, or spoke nonsense, before it delivered."""


class DeviceUnusable(Exception):
    """The device that children must use cannot be used on this machine; the message is the child's."""


class Child:
    """One process; Ready has been received."""

    def __init__(self, process: Process, words: asyncio.Task[None], ready: Ready) -> None:
        self._process = process
        self._words = words
        self.ready = ready

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def run(self, task: Task) -> AsyncGenerator[Message]:
        """Gives it the task and yields what it says, until the caller has the last message; ChildDied."""
        assert self._process.stdin is not None, "the pipe was asked for"
        try:
            self._process.stdin.write(frame(task))
            await self._process.stdin.drain()
            while True:
                yield await self._receive()
        except (EOFError, ConnectionError, ValueError) as error:
            status = await self.end()
            raise ChildDied(f"the training process ended with status {status} ({type(error).__name__})") from error

    def tell(self, signal: Signal) -> None:
        """Sends a signal to a child that has its task; one that is dying need not hear it."""
        assert self._process.stdin is not None, "the pipe was asked for"
        with suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(frame(signal))

    async def _receive(self) -> Message:
        """The next message; EOFError at the end of the pipe, or of the process where the pipe does not tell."""
        assert self._process.stdout is not None, "the pipe was asked for"
        reading = asyncio.ensure_future(receive_message_async(self._process.stdout))
        ended = False
        try:
            while not (await asyncio.wait([reading], timeout=SILENT_SECONDS))[0]:
                if ended:
                    raise EOFError("it ended and left the pipe open")
                ended = not self.alive  # what it said last may still be on its way: one more look
            return reading.result()
        finally:
            reading.cancel()

    async def end(self) -> int:
        """Kills it if it still runs, and returns its exit status."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # Process.kill would reap one that ended by itself, status and all
        # Process.wait returns only when every pipe is closed too, which a pipe that nobody reads never is.
        while (status := self._process.returncode) is None:  # noqa: ASYNC110 - asyncio has no event for it
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.wait([self._words], timeout=LAST_WORDS_SECONDS)
        # Our ends of the pipes; asyncio closes them by itself only where the other ends are closed.
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way
        return status


class ChildPool:
    """Starts children, and keeps one spare. Law: after `close` no spare runs; a taken child is the taker's to end."""

    def __init__(
        self,
        threads: int,
        command: Sequence[str] = COMMAND,
        start_seconds: float = START_SECONDS,
        *,
        spares: bool = True,  # beside a child at work; a worker that ends with its first task needs none
    ) -> None:
        self._spares = spares
        self._command = command
        self._start_seconds = start_seconds
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._spare: asyncio.Task[Child] | None = None
        self._hurry = asyncio.Event()
        self.unusable: DeviceUnusable | None = None  # once a child said so

    def prepare(self, delay_seconds: float = 0.0) -> None:
        """Begins to start a spare after the delay, unless there is one; without spares, only what is wanted now."""
        if self._spare is None and (self._spares or not delay_seconds):
            self._hurry = asyncio.Event()
            self._spare = asyncio.create_task(self._start(delay_seconds, self._hurry), name="spare child")

    async def ready(self, stop: asyncio.Event) -> Child | None:
        """The spare once it can take a task, which stays the spare; None if `stop` is set first.

        ChildDied, or DeviceUnusable.
        """
        self.prepare()
        assert self._spare is not None, "one was prepared"
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([self._spare, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return self._spare.result() if self._spare.done() else None

    async def take(self) -> Child:
        """A child that is ready: the spare, or a new one if that has died.

        ChildDied if none can be started; DeviceUnusable, now and ever after.
        """
        self.prepare()
        spare = self._spare
        assert spare is not None, "one was prepared"
        self._hurry.set()
        try:
            child = await asyncio.shield(spare)  # a taker that gives up leaves the spare to the next one
        except ChildDied as error:
            _log.warning("spare_child_died", problem=str(error))
            child = None
        self._spare = None
        return child if child and child.alive else await self._start(0.0, self._hurry)

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
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self._environment
        )
        assert process.stdout is not None, "the pipe was asked for"
        assert process.stderr is not None, "the pipe was asked for"
        words = asyncio.create_task(_log_words(process.stderr), name="words of a child")
        try:
            async with asyncio.timeout(self._start_seconds):
                ready = await receive_message_async(process.stdout)
            if isinstance(ready, Unusable):
                self.unusable = DeviceUnusable(ready.problem)
                raise self.unusable
            if not isinstance(ready, Ready):
                raise ChildDied(f"the training process began with {type(ready).__name__}")
        except (EOFError, ValueError, TimeoutError) as error:
            status = await Child(process, words, NOT_READY).end()
            raise ChildDied(f"the training process did not start; it ended with status {status}") from error
        except BaseException:
            await Child(process, words, NOT_READY).end()
            raise
        if ready.problem:
            _log.warning("device_unusable", problem=ready.problem)
        return Child(process, words, ready)


async def _log_words(stream: asyncio.StreamReader) -> None:
    """Logs what libraries and a crash print to a child's standard error, until that ends.

    The worker reads it, rather than the child its own, so that a crash's last words are not lost with the child.
    """
    while words := await stream.read(MAX_WORDS_BYTES):
        with suppress(TimeoutError):
            async with asyncio.timeout(WORDS_SECONDS):
                while len(words) < MAX_WORDS_BYTES and (more := await stream.read(MAX_WORDS_BYTES)):
                    words += more
        _log.warning("child_printed", text=words.decode(errors="replace").strip())


NOT_READY = Ready(device="", import_seconds=0.0)

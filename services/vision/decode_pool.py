"""Decodes callers' images in child processes: limited, killable, and in fair turns."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from services.kit import callers
from services.kit.errors import InvalidImage, Unavailable
from services.kit.log import Log
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.vision.decode import Decoded, ImageInfo
from services.vision.decode_limits import SMALL_BYTES, DecodeLimits
from services.vision.decode_messages import Answer, Buffer, Decode, Pixels, Repack, Repacked, Request
from services.vision.decode_metrics import DECODES, KILLS, Kill, Outcome
from services.vision.decode_process import Child, ChildEnded, Ended, RefusedWithHeader, Template
from services.vision.repack import PackImage
from services.vision.turns import Places, Turns

SPARE_BYTES = 128 << 20  # more than an estimate: text and profiles that Pillow reads, fragments
RETIRED_BYTES = 256 << 20  # a process that took more is replaced: it may not have given the memory back
RETRY_SECONDS = 2.0  # before a process is started again, if none could be
GRACE_SECONDS = 0.1  # for an image whose caller is gone: most are decoded sooner than a process is replaced

T = TypeVar("T")
_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image's header, and the image as a pack holds it or why that is impossible."""

    info: ImageInfo
    image: PackImage | InvalidImage


class Decoders(Protocol):
    """Decodes images of callers.

    Law: both raise InvalidImage for an image that is not one or exceeds a limit, and Unavailable if processes cannot be
    started. A cancelled call ends its work.
    """

    @property
    def is_ready(self) -> bool:
        """Whether there is a process, or one could be started when that was last tried."""
        ...

    async def decode(self, data: bytes, name: str, sizes: Sequence[int], use: Callable[[Decoded], T]) -> T:
        """What `use` makes of the image for each `at_least` in `sizes`, for the current caller; called in a thread.

        `use` must not keep the pixels, nor return what shares memory with them.
        """
        ...

    async def repack(self, data: bytes, name: str, caller: str) -> Inspected:
        """The header, and the image as a pack holds it; raises InvalidImage only if the header cannot be used."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    task: Decode | Repack
    data: bytes
    name: str
    caller: str
    peak_bytes: int


class _Killed(Exception):
    """The process ended, or was ended, before it answered."""

    def __init__(self, reason: Kill) -> None:
        self.reason = reason


class DecodePool:
    """Processes that decode, and threads that wait for them; see `Decoders`."""

    def __init__(self, limits: DecodeLimits, telemetry: Telemetry) -> None:
        total = 2 * limits.processes
        self._limits = limits
        self._telemetry = telemetry
        self._turns = Turns(Places(total, limits.processes, limits.budget_bytes, SMALL_BYTES), telemetry)
        self._threads = ThreadPoolExecutor(total, thread_name_prefix="decode")
        self._control = ThreadPoolExecutor(1, thread_name_prefix="decode-control")  # for all that uses the template
        self._template: Template | None = None
        self._can_start = True
        self._idle: list[Child] = []
        self.last_ended = Ended()  # of the processes

    @property
    def idle(self) -> Sequence[Child]:
        """The processes that wait for an image."""
        return self._idle

    @classmethod
    @asynccontextmanager
    async def running(cls, limits: DecodeLimits, telemetry: Telemetry) -> AsyncGenerator["DecodePool"]:
        """A pool that is starting its processes, which end with the block; no call may outlive it."""
        pool = cls(limits, telemetry)
        for _ in range(limits.processes):
            pool._start()
        trying = asyncio.create_task(repeat(pool._try_again, lambda: asyncio.sleep(RETRY_SECONDS)), name="decoders")
        try:
            yield pool
        finally:
            trying.cancel()
            await asyncio.get_running_loop().run_in_executor(pool._control, pool._close)
            pool._control.shutdown(wait=False)
            pool._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """As `Decoders.is_ready`."""
        return self._can_start or bool(self._idle)

    async def decode(self, data: bytes, name: str, sizes: Sequence[int], use: Callable[[Decoded], T]) -> T:
        """As `Decoders.decode`."""

        def finished(answer: Answer, buffer: Buffer) -> T:
            assert isinstance(answer, Pixels), "the answer to Decode"
            return use(Decoded(answer.info, {size: buffer.pixels(*place) for size, *place in answer.arrays}))

        caller = callers.current.get()
        with self._counting():
            cost = self._limits.cost_of(data, name)
            peak_bytes = max((cost.peak_bytes(size) for size in sizes), default=0)
            job = _Job(Decode(tuple(sizes)), data, name, caller.name if caller else "", peak_bytes)
            return await self._run(job, finished)

    async def repack(self, data: bytes, name: str, caller: str) -> Inspected:
        """As `Decoders.repack`."""

        def finished(answer: Answer, buffer: Buffer) -> Inspected:
            assert isinstance(answer, Repacked), "the answer to Repack"
            again = answer.size_bytes is not None
            content = buffer.memory[: answer.size_bytes] if again else data
            size = answer.width, answer.height
            image = PackImage(content, answer.extension, *size, again, answer.fingerprint, answer.notes)
            return Inspected(answer.info, image)

        try:
            with self._counting():
                peak_bytes = self._limits.cost_of(data, name).peak_bytes(reencoded=True)
                return await self._run(_Job(Repack(), data, name, caller, peak_bytes), finished)
        except RefusedWithHeader as refused:
            return Inspected(refused.info, refused.error)

    @contextmanager
    def _counting(self) -> Generator[None]:
        outcome = Outcome.ABANDONED
        try:
            yield
            outcome = Outcome.DECODED
        except (InvalidImage, RefusedWithHeader):
            outcome = Outcome.REFUSED
            raise
        finally:
            self._telemetry.add(DECODES, outcome=outcome)

    async def _run(self, job: _Job, use: Callable[[Answer, Buffer], T]) -> T:
        limits = self._limits
        limits.check_memory(job.peak_bytes, job.name)
        memory_bytes = max(job.peak_bytes, SMALL_BYTES) * 5 // 4 + SPARE_BYTES
        request = Request(job.task, job.name, len(job.data), memory_bytes, limits.cpu_seconds)
        async with self._turns.turn(job.caller, job.peak_bytes):
            for last in (False, True):  # a process may have died for another reason than its image
                try:
                    return await self._ask(request, job, use, fresh=last)
                except _Killed as killed:
                    if last or killed.reason is not Kill.CRASHED:
                        raise limits.fault_of(killed.reason, job.name) from None
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, request: Request, job: _Job, use: Callable[[Answer, Buffer], T], *, fresh: bool) -> T:
        """One attempt; _Killed if the process ends before it answers."""
        child = await self._take(fresh=fresh)
        asking = asyncio.get_running_loop().run_in_executor(self._threads, child.ask, request, job.data, use)
        kill: Kill | None = None
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                return await asyncio.shield(asking)
        except TimeoutError:
            kill = Kill.WALL
        except ChildEnded:
            kill = Kill.CRASHED
        except asyncio.CancelledError:
            kill = Kill.CANCELLED  # also if this wait is cancelled, too
            done, _ = await asyncio.wait([asking], timeout=GRACE_SECONDS)
            if done and not isinstance(asking.exception(), ChildEnded):
                kill = None
            raise
        finally:
            if kill is None and job.peak_bytes <= RETIRED_BYTES and len(self._idle) < self._limits.processes:
                self._idle.append(child)
            else:
                kill = await asyncio.shield(asyncio.ensure_future(self._end(child, asking, kill)))
        raise _Killed(kill or Kill.CRASHED)

    async def _take(self, *, fresh: bool) -> Child:
        """A new process, or an idle one unless it must be new; Unavailable if none can be started."""
        if self._idle and not fresh:
            return self._idle.pop()
        forking = asyncio.get_running_loop().run_in_executor(self._control, self._fork)
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(self._keep)
            raise
        except OSError as error:
            raise Unavailable(what="The image decoder", problem=f"no process can be started: {error}") from error

    def _start(self) -> "asyncio.Future[Child]":
        """Starts a process that will wait for an image, if that is possible."""
        forking = asyncio.get_running_loop().run_in_executor(self._control, self._fork)
        forking.add_done_callback(self._keep)
        return forking

    def _keep(self, forking: "asyncio.Future[Child]") -> None:
        if not forking.cancelled() and not forking.exception():
            self._idle.append(forking.result())

    async def _try_again(self) -> None:
        """Starts a process if none could be: where the service is not ready, no call would."""
        if not self._can_start:
            await asyncio.wait([self._start()])

    def _fork(self) -> Child:
        """A new process, of a new template if the present one has ended; blocks. OSError if that ends too."""
        try:
            child = self._forked()
        except Exception as error:
            if self._can_start:
                _log.error("decoder_not_started", error)
            self._can_start = False
            raise
        self._can_start = True
        return child

    def _forked(self) -> Child:
        if self._template:
            try:
                return self._template.fork()
            except OSError as error:
                _log.warning("decoder_ended", problem=str(error))
                self._template.close()
                self._template = None
        self._template = Template()
        return self._template.fork()

    def _close(self) -> None:
        if self._template:
            self._template.close()

    async def _end(self, child: Child, asking: "asyncio.Future[Any]", kill: Kill | None) -> Kill | None:
        """Ends the process and the thread that waits for it; returns why, by its status if it ended by itself."""
        self.last_ended = await asyncio.get_running_loop().run_in_executor(self._control, child.end)
        await asyncio.wait([asking])
        asking.exception()  # known by now
        child.close()
        if kill is Kill.CRASHED and self.last_ended.used_up_its_cpu:
            kill = Kill.CPU
        if kill:
            self._telemetry.add(KILLS, reason=kill)
            cpu_seconds = round(self.last_ended.cpu_seconds, 2)
            _log.warning("decode_killed", reason=kill, status=self.last_ended.status, cpu_seconds=cpu_seconds)
        return kill

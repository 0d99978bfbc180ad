"""Background work: a step repeated until cancelled, and tasks that run alongside a block."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from services.kit.clock import Clock
from services.kit.errors import SightlineError
from services.kit.log import Log

ASIDE_SHARE = 0.1  # of the time

_log = Log(__name__)


async def repeat(
    step: Callable[[], Awaitable[object]],
    pause: Callable[[], Awaitable[object]],
    survives: type[Exception] = Exception,
) -> None:
    """Runs the step, then the pause, and so on until cancelled.

    A step that raises one of `survives` is logged under the name of the task, and runs again after the pause.
    """
    task = asyncio.current_task()
    name = task.get_name() if task else ""
    while True:
        try:
            await step()
        except survives as error:
            if isinstance(error, SightlineError):
                _log.warning("step_failed", task=name, problem=error.message)
            else:
                _log.error("step_failed", error, task=name)
        await pause()


async def repeat_aside(step: Callable[[], Awaitable[object]], clock: Clock, every_seconds: float) -> None:
    """As `repeat`, with this pause, or a longer one: the steps take at most a tenth of the time.

    For what looks through all there is, which may be much, and matters less than calls do.
    """
    began = clock.monotonic()

    async def pause() -> None:
        nonlocal began
        await clock.sleep(max(every_seconds, (1 / ASIDE_SHARE - 1) * (clock.monotonic() - began)))
        began = clock.monotonic()

    await repeat(step, pause)


@asynccontextmanager
async def alongside(**work: Coroutine[object, None, object]) -> AsyncGenerator[None]:
    """Runs the coroutines, as tasks of the given names, until the block ends.

    If a task or the block fails, the others are cancelled, and the first error is raised by itself, not in a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each, name=name) for name, each in work.items()]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    """The first exception of a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

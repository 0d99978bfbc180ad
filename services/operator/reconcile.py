"""One step of one custom resource: create it, bring it up to date, or wait for its next change."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from services.operator.conditions import LATER, SOON, condition_of, is_away
from services.operator.kinds import KINDS, Found, Kind
from services.operator.resource import ACCEPTED, READY, Condition, Resource, with_conditions
from services.operator.retraining import Advance, advance, is_retrained
from sightline.client.calls import AsyncCalls
from sightline.client.errors import NotFound, SightlineError

WATCH_SECONDS = 60.0  # of one step; then the resource is read again
POLL_SECONDS = 10.0  # between two looks at a resource while all streams are taken
RESYNC_SECONDS = 300.0  # of a resource that has ended
GONE, CHANGED = "DeletedInSightline", "ImmutableFieldChanged"
Now = Callable[[], datetime]
Interruption = Callable[[], Awaitable[object]]  # returns once a step that waits should end


@dataclass(frozen=True, slots=True)
class Step:
    """The status after a step, and when the next one is due unless the resource changes before."""

    status: dict[str, Any]
    delay_seconds: float = 0.0
    is_away: bool = False  # the suite did not answer


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is asked for at once, however many resources there are: far below a caller's share of a service."""

    steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(20))
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(50))
    look_seconds: float = 60.0  # between looks at a dataset whose new versions are trained on


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


async def never() -> None:
    """Interrupts nothing."""
    await asyncio.Event().wait()


async def step(
    calls: AsyncCalls,
    resource: Resource,
    interrupted: Interruption = never,
    pace: Pace | None = None,
    *,
    project: str = "",
    now: Now = utc_now,
) -> Step:
    """Takes the next step; never raises what the suite answers, but shows it as a condition.

    Returns at once if there is something new to show. Otherwise it returns after the next change, or once it is
    interrupted.
    """
    kind, pace = KINDS[resource.kind], pace or Pace()
    shown: dict[str, Any] = {"project": project, "observedGeneration": resource.generation}
    try:
        async with pace.steps:
            found = await _present(kind, calls, resource)
            if found is None:
                return _failed(resource, shown, now, _gone(resource), LATER)
            shown |= {"created": True, "resourceName": found.name}
            if resource.status.get("fixedDigest", resource.fixed_digest) != resource.fixed_digest:
                return _failed(resource, shown, now, _changed(resource), LATER)
            shown["fixedDigest"] = resource.fixed_digest
            found = await kind.update(calls, resource, found)
            finished = await kind.finish(calls, resource, found) if kind.has_ended(found) else {}
            retrains = kind.has_ended(found) and is_retrained(resource)
            taken = await advance(calls, resource, found, now()) if retrains else None
        if taken:
            status = _shown(kind, resource, taken.serving, shown | finished | taken.status, now, taken.condition)
        else:
            status = _shown(kind, resource, found, shown | finished, now)
        if _differs(status, resource):
            return Step(status)
        if taken:
            await _wait(_next_of(taken, calls, pace), interrupted)
            return Step(status)
        if kind.has_ended(found):
            await _wait(asyncio.sleep(RESYNC_SECONDS), interrupted)
            return Step(status)
        later = await _wait(_next(kind, calls, found, pace), interrupted)
    except (SightlineError, json_format.ParseError) as error:
        return _refused(resource, shown, now, error)
    return Step(status if later is None else _shown(kind, resource, later, shown, now))


async def remove(calls: AsyncCalls, resource: Resource, *, now: Now = utc_now) -> tuple[bool, Step]:
    """Takes a step towards the end of a deleted resource; whether it may go, and the status until then."""
    kind = KINDS[resource.kind]
    if resource.is_kept:
        return True, Step({})
    try:
        name = await _created_name(kind, calls, resource)
        if not name or await kind.remove(calls, resource, name):
            return True, Step({})
    except SightlineError as error:
        return False, _refused(resource, {}, now, error)
    waiting = Condition(READY, "False", "Deleting", "Sightline is still stopping or removing it.")
    return False, _failed(resource, {}, now, waiting, SOON)


def _refused(resource: Resource, shown: dict[str, Any], now: Now, error: Exception) -> Step:
    """What is shown of an error."""
    condition, delay = condition_of(error)
    return _failed(resource, shown, now, condition, delay)


async def _created_name(kind: Kind, calls: AsyncCalls, resource: Resource) -> str:
    """The name of what the resource has created; empty if that is nothing. SightlineError if it cannot be told.

    A process may have died between creating it and noting that in the status. The call repeated with its request id
    finds it, and if there is none makes one that is deleted at once.
    """
    if resource.is_created:
        return kind.name_of(resource)
    if resource.was_refused:
        return ""
    try:
        return str((await kind.create(calls, resource)).name)
    except json_format.ParseError:
        return ""
    except SightlineError as error:
        if is_away(error):
            raise
        return ""


async def _present(kind: Kind, calls: AsyncCalls, resource: Resource) -> Found | None:
    """What the resource has created; None if somebody has deleted that."""
    if not resource.is_created:
        return await kind.create(calls, resource)
    try:
        return await kind.get(calls, kind.name_of(resource))
    except NotFound:
        return None


async def _next(kind: Kind, calls: AsyncCalls, found: Found, pace: Pace) -> Found | None:
    """The first value that shows something new; None if there was none for a while."""
    if pace.streams.locked():
        await asyncio.sleep(POLL_SECONDS)
        return None
    async with pace.streams, asyncio.timeout(WATCH_SECONDS), aclosing(kind.watch(calls, found.name)) as changes:
        async for later in changes:
            if kind.summary(later) != kind.summary(found):
                return later
    return None


async def _next_of(taken: Advance, calls: AsyncCalls, pace: Pace) -> Found | None:
    """Returns when it is time for the next step of a retraining."""
    if not taken.awaited:
        await asyncio.sleep(min(taken.delay_seconds or pace.look_seconds, pace.look_seconds))
        return None
    kind, found = taken.awaited
    with suppress(NotFound):  # the next step sees that it is gone
        await _next(KINDS[kind], calls, found, pace)
    return None


async def _wait(coming: Coroutine[Any, Any, Found | None], interrupted: Interruption) -> Found | None:
    """What is awaited; None if that is interrupted, or takes too long."""
    tasks = asyncio.ensure_future(coming), asyncio.ensure_future(interrupted())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    except TimeoutError:
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _shown(
    kind: Kind, resource: Resource, found: Found, shown: dict[str, Any], now: Now, *more: Condition
) -> dict[str, Any]:
    """The status for what was found."""
    summary = kind.summary(found)
    conditions = [Condition(ACCEPTED, "True", "Created"), _readiness(kind, found, summary), *more]
    return shown | summary | {"conditions": with_conditions(resource, conditions, now())}


def _readiness(kind: Kind, found: Found, summary: dict[str, Any]) -> Condition:
    state = summary["state"]
    reason = "".join(word.title() for word in state.split("_"))
    if state in ("READY", "SUCCEEDED"):
        return Condition(READY, "True", reason)
    if kind.has_ended(found) and found.HasField("error"):
        return Condition(READY, "False", reason, found.error.message)
    return Condition(READY, "False", reason)


def _failed(resource: Resource, shown: dict[str, Any], now: Now, condition: Condition, delay: float) -> Step:
    conditions = [condition]
    if condition.type == ACCEPTED:
        conditions.append(Condition(READY, "False", condition.reason, condition.message))
    status = shown | {"conditions": with_conditions(resource, conditions, now())}
    return Step(status, delay, is_away=condition.status == "Unknown")


def _gone(resource: Resource) -> Condition:
    message = (
        f"Somebody has deleted {resource.status.get('resourceName')} in Sightline. "
        "It is not created again: delete this resource, and apply it again if you still want it."
    )
    return Condition(READY, "False", GONE, message)


def _changed(resource: Resource) -> Condition:
    message = (
        f"Fields of {resource.status.get('resourceName')} were changed that it keeps for life. "
        "Restore them, or create another resource."
    )
    return Condition(ACCEPTED, "False", CHANGED, message)


def _differs(status: dict[str, Any], resource: Resource) -> bool:
    return any(resource.status.get(name) != value for name, value in status.items())

"""One step of one custom resource: create it, bring it up to date, or wait for its next change."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from services.operator.kinds import KINDS, Found, Kind
from services.operator.resource import ACCEPTED, READY, Condition, Resource, with_conditions
from sightline.client.calls import AsyncCalls
from sightline.client.errors import (
    AlreadyExists,
    Conflict,
    DatasetNotReady,
    DeadlineExceeded,
    InvalidArgument,
    ModelNotReady,
    NotFound,
    SightlineError,
    Unavailable,
)

WATCH_SECONDS = 60.0  # of one step; then the resource is read again
LOOK_SECONDS = 1.0  # between looks at whether the resource has changed meanwhile
RESYNC_SECONDS = 300.0  # of a resource that has ended
SOON, LATER = 5.0, 60.0  # seconds until a step that failed is repeated
WAITED_FOR = DatasetNotReady, ModelNotReady, NotFound
GONE = "DeletedInSightline"
Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Step:
    """The status after a step, and when the next one is due."""

    status: dict[str, Any]
    delay_seconds: float = 0.0


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


async def step(
    calls: AsyncCalls,
    resource: Resource,
    has_changed: Callable[[], bool] = lambda: False,
    *,
    project: str = "",
    now: Now = utc_now,
) -> Step:
    """Takes the next step; never raises what the suite answers, but shows it as a condition.

    Returns at once if there is something new to show. Otherwise it returns after the next change, or once `has_changed`
    says that the custom resource is another.
    """
    kind = KINDS[resource.kind]
    shown = {"project": project, "observedGeneration": resource.generation}
    try:
        found = await _present(kind, calls, resource)
        if found is None:
            return _failed(resource, shown, now, _gone(resource), LATER)
        shown |= {"created": True, "resourceName": found.name}
        found = await kind.update(calls, resource, found)
        finished = await kind.finish(calls, resource, found) if kind.has_ended(found) else {}
    except (SightlineError, json_format.ParseError) as error:
        condition, delay = condition_of(resource, error)
        return _failed(resource, shown, now, condition, delay)
    status = _shown(kind, resource, found, shown | finished, now)
    if _differs(status, resource):
        return Step(status)
    if kind.has_ended(found):
        await _wait(asyncio.sleep(RESYNC_SECONDS), has_changed)
        return Step(status)
    try:
        later = await _wait(_next(kind, calls, resource, found), has_changed)
    except SightlineError as error:
        condition, delay = condition_of(resource, error)
        return _failed(resource, shown, now, condition, delay)
    return Step(status if later is None else _shown(kind, resource, later, shown, now))


async def remove(calls: AsyncCalls, resource: Resource, *, now: Now = utc_now) -> tuple[bool, Step]:
    """Takes a step towards the end of a deleted resource; whether it may go, and the status until then."""
    kind = KINDS[resource.kind]
    if resource.is_kept or not resource.is_created:
        return True, Step({})
    try:
        if await kind.remove(calls, kind.name_of(resource)):
            return True, Step({})
    except SightlineError as error:
        condition, delay = condition_of(resource, error)
        return False, _failed(resource, {}, now, condition, delay)
    waiting = Condition(READY, "False", "Deleting", "It is being cancelled first.")
    return False, _failed(resource, {}, now, waiting, SOON)


def condition_of(resource: Resource, error: Exception) -> tuple[Condition, float]:
    """What an error means for the resource, and after how long to try again."""
    if isinstance(error, json_format.ParseError):
        return Condition(ACCEPTED, "False", "InvalidSpec", f"{error}; correct the spec."), LATER
    assert isinstance(error, SightlineError), error
    message = error.message + (f" Fix: {error.fix}." if error.fix else "")
    reason = _reason(error)
    if isinstance(error, AlreadyExists):
        message += " It was not created by this resource: choose another name, or delete it first."
        return Condition(ACCEPTED, "False", reason, message), LATER
    if isinstance(error, InvalidArgument):
        return Condition(ACCEPTED, "False", reason, message), LATER
    if isinstance(error, (Unavailable, DeadlineExceeded)):
        return Condition(READY, "Unknown", reason, message), SOON
    if isinstance(error, (Conflict, *WAITED_FOR)):
        return Condition(READY, "False", reason, message), SOON
    return Condition(READY, "False", reason, message), LATER


async def _present(kind: Kind, calls: AsyncCalls, resource: Resource) -> Found | None:
    """What the resource has created; None if somebody has deleted that."""
    if not resource.is_created:
        return await kind.create(calls, resource)
    try:
        return await kind.get(calls, kind.name_of(resource))
    except NotFound:
        return None


async def _next(kind: Kind, calls: AsyncCalls, resource: Resource, found: Found) -> Found | None:
    """The first value that shows something new; None if there was none for a while."""
    async with asyncio.timeout(WATCH_SECONDS), aclosing(kind.watch(calls, found.name)) as changes:
        async for later in changes:
            if kind.summary(later) != kind.summary(found):
                return later
    return None


async def _wait(coming: Any, has_changed: Callable[[], bool]) -> Any:
    """What is awaited; None once `has_changed`, or after too long."""
    task = asyncio.ensure_future(coming)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_SECONDS)
            if has_changed():
                return None
        return task.result()
    except TimeoutError:
        return None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _shown(kind: Kind, resource: Resource, found: Found, shown: dict[str, Any], now: Now) -> dict[str, Any]:
    """The status for what was found."""
    summary = kind.summary(found)
    conditions = [Condition(ACCEPTED, "True", "Created"), _readiness(kind, found, summary)]
    return shown | summary | {"conditions": with_conditions(resource, conditions, now())}


def _readiness(kind: Kind, found: Found, summary: dict[str, Any]) -> Condition:
    state = summary["state"]
    reason = "".join(word.title() for word in state.split("_"))
    if state in ("READY", "SUCCEEDED"):
        return Condition(READY, "True", reason)
    if kind.has_ended(found) and found.DESCRIPTOR.fields_by_name.get("error") and found.HasField("error"):
        return Condition(READY, "False", reason, found.error.message)
    return Condition(READY, "False", reason)


def _failed(resource: Resource, shown: dict[str, Any], now: Now, condition: Condition, delay: float) -> Step:
    conditions = [condition]
    if condition.type == ACCEPTED:
        conditions.append(Condition(READY, "False", condition.reason, condition.message))
    return Step(shown | {"conditions": with_conditions(resource, conditions, now())}, delay)


def _gone(resource: Resource) -> Condition:
    message = (
        f"Somebody has deleted {resource.status.get('resourceName')} in Sightline. "
        "Nothing is created again by itself: delete this resource and create it anew if it is still wanted."
    )
    return Condition(READY, "False", GONE, message)


def _reason(error: SightlineError) -> str:
    """The reason in the form of conditions' reasons: `datasetNotReady` as `DatasetNotReady`."""
    reason = error.reason or type(error).__name__
    return reason[0].upper() + reason[1:]


def _differs(status: dict[str, Any], resource: Resource) -> bool:
    return any(resource.status.get(name) != value for name, value in status.items())

"""The operator as kopf runs it: a timer that takes step after step of each resource, and what a deletion does."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from services.operator.kinds import KINDS
from services.operator.reconcile import Interruption, Pace, Step, remove, step
from services.operator.resource import GROUP, VERSION, Resource
from services.operator.retraining import RETRAINING_REASONS
from sightline.client.calls import AsyncCalls

Login = Callable[..., kopf.ConnectionInfo | None]
CallsOf = Callable[[str], AsyncCalls]  # of a namespace
FINALIZER = f"{GROUP}/operator"
INTERVAL_SECONDS = 0.5  # between two steps of a resource
LOOK_SECONDS = 0.5  # between looks at whether a resource has changed while a step waits
LONGEST_DELAY_SECONDS = 60.0  # between attempts while the suite is away
EXIT_SECONDS = 5.0  # for a step to end when it is interrupted


def registry(calls_of: CallsOf, project_of: Callable[[str], str], pace: Pace, *logins: Login) -> kopf.OperatorRegistry:
    """The handlers of all kinds, and the ways to the api server, of which the first that there is counts."""
    made = kopf.OperatorRegistry()
    for number, login in enumerate(logins):
        kopf.on.login(registry=made, id=f"login-{number}", errors=kopf.ErrorsMode.IGNORED)(login)
    for kind in KINDS.values():
        resource = GROUP, VERSION, kind.plural

        @kopf.timer(*resource, registry=made, interval=INTERVAL_SECONDS, id="follow")
        async def follow(
            body: kopf.Body, patch: kopf.Patch, memo: kopf.Memo, stopped: kopf.DaemonStopped, **_: Any
        ) -> None:
            resource = Resource.of(body)
            interrupted = _interruption(body, resource, stopped)
            if await _is_due(memo, resource, interrupted):
                project = project_of(resource.namespace)
                taken = await step(calls_of(resource.namespace), resource, interrupted, pace, project=project)
                _show(body, resource, taken.status, patch)
                _plan(memo, resource, taken)

        @kopf.on.delete(*resource, registry=made, id="remove")
        async def removed(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
            await _remove(calls_of, body, patch)

    return made


def settings(made: kopf.OperatorSettings) -> None:
    """How kopf works for us: in the resources it keeps a finalizer and its progress, and it logs what is wrong with it.

    A resource that has to wait is no error: its conditions and events say why it waits.
    """
    made.persistence.finalizer = FINALIZER
    made.persistence.progress_storage = kopf.StatusProgressStorage(field="status.operator")
    made.persistence.diffbase_storage = kopf.StatusDiffBaseStorage(field="status.operatorSeen")
    made.posting.loggers = False
    made.scanning.disabled = True  # needs no right to read the cluster's definitions and namespaces
    made.watching.server_timeout = 240
    made.background.instant_exit_timeout = EXIT_SECONDS
    made.execution.max_workers = 1  # no handler blocks
    logging.getLogger("kopf.objects").addFilter(_is_no_wait)


def _is_no_wait(record: logging.LogRecord) -> bool:
    return "failed temporarily" not in str(record.msg)


def _interruption(body: kopf.Body, resource: Resource, stopped: kopf.DaemonStopped) -> Interruption:
    """Returns once the resource is another, is deleted, or the operator stops."""

    async def interrupted() -> None:
        while not stopped and body["metadata"].get("generation", 1) == resource.generation:  # kopf keeps it current
            await stopped.wait(LOOK_SECONDS)

    return interrupted


async def _is_due(memo: kopf.Memo, resource: Resource, interrupted: Interruption) -> bool:
    """Whether a step may be taken at once; otherwise it has waited for the delay that the last one asked for."""
    delay = memo.pop("delay", 0.0)
    if not delay or memo["generation"] != resource.generation:
        return True
    try:
        async with asyncio.timeout(delay):
            await interrupted()
    except TimeoutError:
        pass
    return False  # the next step sees what has changed meanwhile


def _plan(memo: kopf.Memo, resource: Resource, taken: Step) -> None:
    """Notes when the next step is due: later and later while the suite is away."""
    memo["generation"] = resource.generation
    memo["failures"] = failures = memo.get("failures", 0) + 1 if taken.is_away else 0
    memo["delay"] = min(taken.delay_seconds * 2 ** max(0, failures - 1), LONGEST_DELAY_SECONDS)


async def _remove(calls_of: CallsOf, body: kopf.Body, patch: kopf.Patch) -> None:
    resource = Resource.of(body)
    may_go, taken = await remove(calls_of(resource.namespace), resource)
    if not may_go:
        _show(body, resource, taken.status, patch)
        raise kopf.TemporaryError(_why(taken.status), delay=taken.delay_seconds)


def _show(body: kopf.Body, resource: Resource, status: dict[str, Any], patch: kopf.Patch) -> None:
    """Writes what is new in the status, and an event for each condition that has another reason now."""
    patch.status.update(changes(resource.status, status))
    before = {one["type"]: one.get("reason") for one in resource.status.get("conditions", ())}
    for one in status.get("conditions", ()):
        if before.get(one["type"]) != one["reason"]:
            is_fault = one["status"] != "True" and one["message"] and one["reason"] not in RETRAINING_REASONS
            type_ = "Warning" if is_fault else "Normal"
            kopf.event(body, type=type_, reason=one["reason"], message=one["message"] or str(status.get("state", "")))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch for what is new in `after`; of a map in it only the entries that are new or gone."""
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    for name, value in changed.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            gone = old.keys() - value.keys()
            changed[name] = {key: one for key, one in value.items() if old.get(key) != one} | dict.fromkeys(gone)
    return changed


def _why(status: dict[str, Any]) -> str:
    return "; ".join(one["message"] or one["reason"] for one in status.get("conditions", ()) if one["status"] != "True")

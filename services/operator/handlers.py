"""The operator as kopf runs it: a timer that takes step after step of each resource, and what a deletion does."""

from collections.abc import Callable
from typing import Any

import kopf

from services.operator.kinds import KINDS
from services.operator.reconcile import remove, step
from services.operator.resource import GROUP, VERSION, Resource
from sightline.client.calls import AsyncCalls

Login = Callable[..., kopf.ConnectionInfo | None]
CallsOf = Callable[[str], AsyncCalls]  # of a namespace
FINALIZER = f"{GROUP}/operator"
INTERVAL_SECONDS = 0.5  # between two steps of a resource


def registry(calls_of: CallsOf, project_of: Callable[[str], str], *logins: Login) -> kopf.OperatorRegistry:
    """The handlers of all kinds, and the ways to the api server, of which the first that there is counts."""
    made = kopf.OperatorRegistry()
    for number, login in enumerate(logins):
        kopf.on.login(registry=made, id=f"login-{number}", errors=kopf.ErrorsMode.IGNORED)(login)
    for kind in KINDS.values():
        resource = GROUP, VERSION, kind.plural

        @kopf.timer(*resource, registry=made, interval=INTERVAL_SECONDS, id="follow")
        async def follow(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
            await _follow(calls_of, project_of, body, patch)

        @kopf.on.delete(*resource, registry=made, id="remove")
        async def removed(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
            await _remove(calls_of, body, patch)

    return made


def settings(made: kopf.OperatorSettings) -> None:
    """How kopf works for us: nothing of its own in the resources but a finalizer, and no events from logs."""
    made.persistence.finalizer = FINALIZER
    made.persistence.progress_storage = kopf.StatusProgressStorage(field="status.operator")
    made.persistence.diffbase_storage = kopf.StatusDiffBaseStorage(field="status.operatorSeen")
    made.posting.enabled = False
    made.watching.server_timeout = 240
    made.execution.max_workers = 1  # no handler blocks


async def _follow(calls_of: CallsOf, project_of: Callable[[str], str], body: kopf.Body, patch: kopf.Patch) -> None:
    resource = Resource.of(body)

    def has_changed() -> bool:
        meta = body["metadata"]  # kopf keeps the body current
        return meta.get("generation", 1) != resource.generation or "deletionTimestamp" in meta

    project = project_of(resource.namespace)
    taken = await step(calls_of(resource.namespace), resource, has_changed, project=project)
    for name, value in taken.status.items():
        if resource.status.get(name) != value:
            patch.status[name] = value
    _report(body, resource, taken.status)
    if taken.delay_seconds:
        raise kopf.TemporaryError(_why(taken.status), delay=taken.delay_seconds)


async def _remove(calls_of: CallsOf, body: kopf.Body, patch: kopf.Patch) -> None:
    resource = Resource.of(body)
    may_go, taken = await remove(calls_of(resource.namespace), resource)
    if not may_go:
        patch.status.update(taken.status)
        raise kopf.TemporaryError(_why(taken.status), delay=taken.delay_seconds)


def _report(body: kopf.Body, resource: Resource, status: dict[str, Any]) -> None:
    """An event for each condition that another reason has now."""
    before = {one["type"]: one.get("reason") for one in resource.status.get("conditions", ())}
    for one in status.get("conditions", ()):
        if before.get(one["type"]) != one["reason"]:
            type_ = "Normal" if one["status"] == "True" else "Warning" if one["message"] else "Normal"
            kopf.event(body, type=type_, reason=one["reason"], message=one["message"] or str(status.get("state", "")))


def _why(status: dict[str, Any]) -> str:
    return "; ".join(one["message"] or one["reason"] for one in status.get("conditions", ()) if one["status"] != "True")

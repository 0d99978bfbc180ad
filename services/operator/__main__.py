"""Runs the operator: `python -m services.operator`, or prints its settings with `--settings`."""

import asyncio
import sys
from dataclasses import replace

import kopf

from services.infra import observe, processes
from services.infra.tls import caller
from services.kit.settings import load
from services.operator import handlers
from services.operator.reconcile import Pace
from services.operator.settings import OperatorSettings
from sightline.client import progress
from sightline.client.calls import AsyncCalls
from sightline.client.stubs_aio import AsyncStubs

LOGINS = kopf.login_with_service_account, kopf.login_with_kubeconfig


class Projects:
    """The calls of each namespace, in its project; its connections are opened once."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._known: dict[str, AsyncCalls] = {}

    def calls(self, namespace: str) -> AsyncCalls:
        """The calls that a namespace's resources make."""
        project = self._settings.project_of(namespace)
        if project not in self._known:
            stubs = AsyncStubs(self._settings.addresses, replace(caller(self._settings), project=project))
            self._known[project] = AsyncCalls(stubs, progress.silent)
        return self._known[project]

    async def close(self) -> None:
        """Closes the connections."""
        for calls in self._known.values():
            await calls.stubs.close()


def main() -> None:
    """Works until SIGTERM or SIGINT."""
    settings = load(OperatorSettings)
    if "--settings" in sys.argv[1:]:
        sys.stdout.write(settings.masked() + "\n")
        return
    observe.configure_logging("operator", settings.log_level)
    processes.run(lambda stop: serve(settings, stop))


async def serve(settings: OperatorSettings, stop: asyncio.Event) -> None:
    """Runs the operator."""
    projects, configured = Projects(settings), kopf.OperatorSettings()
    pace = Pace(look_seconds=settings.operator_look_seconds)
    handlers.settings(configured)
    with observe.measured("operator", settings):
        try:
            ours = asyncio.all_tasks()
            tasks = await kopf.spawn_tasks(
                registry=handlers.registry(projects.calls, settings.project_of, pace, *LOGINS),
                settings=configured,
                namespaces=settings.namespaces,
                clusterwide=not settings.namespaces,
                standalone=True,
                stop_flag=stop,
            )
            processes.stop_at_signals(stop)  # kopf has taken them, and would then wait 5 s for this event
            await kopf.run_tasks(tasks, ignored=ours)
        except TimeoutError:  # of a task of kopf's, which had to wait for a handler
            if not stop.is_set():
                raise
        finally:
            await projects.close()


if __name__ == "__main__":
    main()

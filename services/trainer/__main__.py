"""Runs the trainer's api or worker: `python -m services.trainer api` or `worker`; `--settings` prints the settings.

`worker --once` exits after one trial or evaluation, or if none arrives within SIGHTLINE_ONCE_SECONDS.
`sign` signs the models that SIGHTLINE_SIGNING_KEY has not signed, with the permissions of the api.
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path

from services.infra import observe, processes, tls
from services.infra.broker import open_broker
from services.infra.channel import open_channel
from services.infra.jetstream import ANSWER_SECONDS, PATIENT_SECONDS
from services.infra.quota_file import limits_of
from services.infra.server import Server, Service
from services.infra.store import open_blobs
from services.kit import consume
from services.kit.clock import SystemClock
from services.kit.folders import try_writing
from services.kit.jobs import handler as handler_of
from services.kit.log import Log
from services.kit.settings import load, refuse_exposure
from services.kit.tasks import alongside
from services.kit.telemetry import MemoryTelemetry, Telemetry
from services.trainer import metrics
from services.trainer.alias_rpc import ModelAliasServicer
from services.trainer.aliases import Aliases
from services.trainer.app import Models
from services.trainer.clients import GrpcDatasets
from services.trainer.estimates import Estimates
from services.trainer.evaluations import Evaluations
from services.trainer.exports import Exports
from services.trainer.project_gauges import ProjectGauges
from services.trainer.projects import Projects
from services.trainer.quotas import Quotas
from services.trainer.reconcile import jobs
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.reconcile.counts import Counts
from services.trainer.reconcile.gauges import Gauges
from services.trainer.rpc import EvaluationServicer, ModelServicer, ProjectServicer
from services.trainer.settings import TrainerSettings
from services.trainer.sign_models import sign_models
from services.trainer.store import Store
from services.trainer.waiting import Waits
from services.trainer.worker.child_pool import COMMAND, ChildNotStarted, ChildPool
from services.trainer.worker.run_one import RunOne
from services.trainer.worker.worker import Worker
from services.trainer.worker.workspace import Workspace, cleared
from services.vision.signing import Signer
from sightline.v1 import (
    evaluation_service_pb2,
    model_alias_service_pb2,
    model_service_pb2,
    project_service_pb2,
)
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.evaluation_service_pb2_grpc import add_EvaluationServiceServicer_to_server
from sightline.v1.model_alias_service_pb2_grpc import add_ModelAliasServiceServicer_to_server
from sightline.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from sightline.v1.project_service_pb2_grpc import add_ProjectServiceServicer_to_server

USAGE = "usage: python -m services.trainer api | worker [--once] | sign | --settings"
STOP_GRACE = timedelta(seconds=45)  # longer than a worker takes to give its work back
RESTART_SECONDS = 10.0  # after a child that did not start

_log = Log(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT, then shuts down gracefully."""
    settings = load(TrainerSettings)
    arguments = sys.argv[1:]
    if "--settings" in arguments:
        sys.stdout.write(settings.masked() + "\n")
        return
    if arguments not in (["api"], ["worker"], ["worker", "--once"], ["sign"]):
        raise SystemExit(USAGE)
    if arguments == ["sign"]:
        raise SystemExit(asyncio.run(sign(settings)))
    if arguments == ["api"]:
        refuse_exposure(settings)
    observe.configure_logging(f"trainer-{arguments[0]}", settings.log_level)
    if arguments == ["api"]:
        processes.run(lambda stop: serve(settings, stop))
    else:
        processes.run(lambda stop: work(settings, stop, once=arguments[1:] == ["--once"]))


async def serve(settings: TrainerSettings, stop: asyncio.Event) -> None:
    """Runs the api: ModelService, EvaluationService and the coordinator. Imports no torch."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(observe.measured("trainer-api", settings, metrics.API))
        records, queue = await stack.enter_async_context(open_broker(settings, "trainer-api", telemetry))
        store, blobs = Store.over(records), await open_blobs(settings, telemetry, ANSWER_SECONDS)
        channel = await stack.enter_async_context(
            open_channel(settings.dataset_address, credentials=tls.caller(settings))
        )
        datasets = GrpcDatasets(DatasetServiceStub(channel), blobs.bucket)
        counts, limits = Counts(store, clock, telemetry), limits_of(settings)
        quotas, projects = Quotas(store, limits, clock), Projects(store, limits, clock)
        models = Models(store, datasets, blobs, clock, counts, quotas)
        estimates, waits = Estimates(store, datasets, blobs, clock, telemetry), Waits(store, queue, datasets, clock)
        exports = Exports(store, blobs, waits, clock, telemetry)
        services = _services(
            ModelServicer(models, estimates, exports, store, waits, blobs.bucket, clock),
            ModelAliasServicer(Aliases(store, clock)),
            EvaluationServicer(Evaluations(store, datasets, blobs, clock, counts, quotas), store),
            ProjectServicer(projects, clock),
        )
        server = Server("trainer", settings, telemetry, services, store.is_synced)
        async with alongside(
            views=store.run(),
            coordinator=Coordinator(store, datasets, blobs, queue, clock, telemetry, settings.lease).run(),
            gauges=Gauges(store, queue, clock, telemetry).keep_going(),
            counts=counts.keep_going(),
            projects=ProjectGauges(store, projects, clock, telemetry).keep_going(),
        ):
            await server.start()
            await server.run_until(stop)


async def sign(settings: TrainerSettings) -> int:
    """Prints a line for each model that has a bundle; status 1 if one is not signed."""
    signer = Signer.of(settings.signing_key.get_secret_value())
    if signer is None:
        raise SystemExit("SIGHTLINE_SIGNING_KEY is not set: it is the key to sign with")
    telemetry = MemoryTelemetry()  # the api beside it has the port
    async with open_broker(settings, "trainer-api", telemetry) as (records, _):
        outcome = await sign_models(records, await open_blobs(settings, telemetry), signer)
    lines = [f"signed   {name}" for name in outcome.signed] + [f"valid    {name}" for name in outcome.valid]
    lines += [f"unsigned {name}: {problem}" for name, problem in outcome.problems.items()]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if outcome.problems else 0


def _services(
    models: ModelServicer, aliases: ModelAliasServicer, evaluations: EvaluationServicer, projects: ProjectServicer
) -> list[Service]:
    """Each servicer as the service of the contract that it is."""
    of_aliases = model_alias_service_pb2.DESCRIPTOR.services_by_name["ModelAliasService"]
    of_models = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
    of_evaluations = evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"]
    of_projects = project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"]
    return [
        Service(of_models, add_ModelServiceServicer_to_server, models),
        Service(of_aliases, add_ModelAliasServiceServicer_to_server, aliases),
        Service(of_evaluations, add_EvaluationServiceServicer_to_server, evaluations),
        Service(of_projects, add_ProjectServiceServicer_to_server, projects),
    ]


async def work(settings: TrainerSettings, stop: asyncio.Event, *, once: bool = False) -> None:
    """Runs a worker: one piece of work at a time, or only one; only its child processes import torch."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(observe.measured("trainer-worker", settings, metrics.WORKER))
        telemetry.set(metrics.WORKER_READY, 0)
        root = settings.work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-worker-")))
        try_writing(root)
        temporary = cleared(root)
        command = *COMMAND, settings.device, str(settings.processes), *_limits(settings, root)
        pool = ChildPool(
            settings.threads, command, hang_seconds=settings.hang_seconds, spares=not once, temporary=temporary
        )
        stack.push_async_callback(pool.close)
        pool.prepare()
        records, queue = await stack.enter_async_context(
            open_broker(settings, "trainer-worker", telemetry, PATIENT_SECONDS)
        )
        workspace = Workspace(root, await open_blobs(settings, telemetry))
        worker = Worker(processes.identity(), Store.over(records), workspace, pool, settings, clock, telemetry, stop)
        only = RunOne(worker.handle, stop, clock, settings.once_seconds)
        handler = handler_of(only.handle if once else worker.handle)
        job = consume.Job(jobs.KIND, handler, handler)
        patient = not once and settings.device != "cuda"  # without a GPU, the driver may be broken

        async def ready() -> None:
            if pool.failed:
                await until_ready(pool, telemetry, stop, patient=patient)

        await until_ready(pool, telemetry, stop, patient=patient)
        async with alongside(**({"once": only.watch()} if once else {})):
            await consume.consume(
                queue, job, clock=clock, telemetry=telemetry, stop=stop, grace=STOP_GRACE, ready=ready
            )
        if pool.unusable:
            raise pool.unusable


def _limits(settings: TrainerSettings, root: Path) -> list[str]:
    """What keeps the training child from doing harm, as its arguments."""
    limits = [settings.child_network, str(settings.child_memory_bytes)]
    if settings.child_files == "all":
        return limits
    readable = (settings.weights_dir, settings.graphs)
    return [*limits, str(root.absolute()), *(str(folder.absolute()) for folder in readable if folder)]


async def until_ready(pool: ChildPool, telemetry: Telemetry, stop: asyncio.Event, *, patient: bool) -> None:
    """Returns once a child can take a task, or at the stop: a worker without one takes no work. DeviceUnusable.

    If a child does not start, the patient start another a little later; others raise ChildNotStarted.
    """
    while not stop.is_set():
        try:
            child = await pool.ready(stop)
        except ChildNotStarted as error:
            telemetry.set(metrics.WORKER_READY, 0)
            if not patient:
                raise
            _log.error("child_not_started", problem=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_SECONDS):
                    await stop.wait()
        else:
            if child:
                telemetry.set(metrics.WORKER_READY, 1)
            return


if __name__ == "__main__":
    main()

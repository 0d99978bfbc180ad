"""Runs a dataset process: `python -m services.dataset api|worker`, or prints its settings with `--settings`."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from services.dataset import metrics, worker
from services.dataset.app import Datasets
from services.dataset.context import WorkerContext
from services.dataset.domain import COLLECTION, DatasetRecord
from services.dataset.gauges import Gauges
from services.dataset.quotas import SERVICE, Quotas, SnapshotRoom
from services.dataset.reconcile import Reconciler
from services.dataset.rpc import DatasetServicer
from services.dataset.settings import DatasetSettings
from services.dataset.upload import REQUEST_BYTES, Uploads
from services.dataset.upload_records import UploadReconciler, UploadRecord, UploadRecords
from services.infra import audit_rpc, observe, processes
from services.infra.audit_log import open_log
from services.infra.broker import open_broker
from services.infra.jetstream import ANSWER_SECONDS, PATIENT_SECONDS
from services.infra.quota_file import limits_of
from services.infra.server import Server, Service
from services.infra.store import open_blobs
from services.kit.accounts import Accounts
from services.kit.blobs import Blobs
from services.kit.clock import SystemClock
from services.kit.collection import Collection
from services.kit.errors import DatasetNotFound, UploadNotFound
from services.kit.folders import try_writing
from services.kit.holds import Holds
from services.kit.queue import Queue
from services.kit.reach import UPLOADS
from services.kit.records import Records, Table
from services.kit.settings import load, refuse_exposure
from services.kit.tasks import alongside
from services.kit.telemetry import Telemetry
from services.vision.decode_pool import DecodePool
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["DatasetService"]


class Role(StrEnum):
    """What the process does."""

    API = "api"
    WORKER = "worker"


def main() -> None:
    """Runs until SIGTERM or SIGINT, then finishes what is in flight."""
    settings = load(DatasetSettings)
    if "--settings" in sys.argv[1:]:
        sys.stdout.write(settings.masked() + "\n")
        return
    if len(sys.argv) != 2 or sys.argv[1] not in list(Role):
        raise SystemExit(f"usage: python -m services.dataset {'|'.join(Role)} | --settings")
    role = Role(sys.argv[1])
    if role is Role.API:
        refuse_exposure(settings)
    observe.configure_logging(f"dataset-{role}", settings.log_level)
    processes.run(lambda stop: (serve if role is Role.API else work)(settings, stop))


@dataclass(frozen=True, slots=True)
class _Ports:
    """The ports of one process."""

    blobs: Blobs
    records: Records
    queue: Queue
    telemetry: Telemetry


@asynccontextmanager
async def _ports(settings: DatasetSettings, role: Role) -> AsyncGenerator[_Ports]:
    name = f"dataset-{role}"
    exported, seconds = (metrics.API, ANSWER_SECONDS) if role is Role.API else (metrics.WORKER, PATIENT_SECONDS)
    with observe.measured(name, settings, exported) as telemetry:
        try_writing(settings.scratch_directory)
        blobs = await (
            open_blobs(settings, telemetry, seconds) if role is Role.API else open_blobs(settings, telemetry)
        )
        async with open_broker(settings, name, telemetry, seconds) as (records, queue):
            yield _Ports(blobs, records, queue, telemetry)


async def serve(settings: DatasetSettings, stop: asyncio.Event) -> None:
    """Runs the api. It decodes no images, so it answers even if every worker is busy or dead."""
    async with _ports(settings, Role.API) as ports, open_log(settings, "dataset-api", ports.telemetry) as audit_log:
        clock = SystemClock()
        collection = Collection(ports.records, DatasetRecord, DatasetNotFound, COLLECTION)
        view = collection.view
        kept = Collection(ports.records, UploadRecord, UploadNotFound, UPLOADS)
        accounts = Accounts(ports.records, SERVICE, {COLLECTION: view})
        quotas = Quotas(collection, kept.view, accounts, limits_of(settings), clock)
        holds = Holds(ports.records)
        records = UploadRecords(kept, ports.blobs, clock, settings, quotas)
        datasets = Datasets(collection, ports.blobs, ports.queue, clock, settings, records, quotas, holds)
        uploads = Uploads(records, ports.blobs, ports.telemetry, settings)
        servicer = DatasetServicer(datasets, uploads, ports.blobs.bucket)
        service = Service(DESCRIPTOR, add_DatasetServiceServicer_to_server, servicer, REQUEST_BYTES)

        async def ready() -> bool:
            if not all(one.is_synced for one in (view, kept.view, accounts.view, holds.view)):
                return False
            await ports.blobs.ping()
            return True

        server = Server("dataset", settings, ports.telemetry, [service, audit_rpc.service(audit_log)], ready)
        reconciler = Reconciler(collection, holds, ports.queue, clock, ports.telemetry, settings)
        async with alongside(
            view=view.run(),
            uploads=kept.view.run(),
            accounts=accounts.view.run(),
            holds=holds.view.run(),
            quotas=quotas.run(),
            expiry=UploadReconciler(records, view, ports.telemetry).run(settings.reconcile_seconds),
            gauges=Gauges(view, ports.queue, clock, ports.telemetry).run(),
            reconciler=reconciler.run(settings.reconcile_seconds),
        ):
            await server.start()
            await server.run_until(stop)


async def work(settings: DatasetSettings, stop: asyncio.Event) -> None:
    """Runs a worker, which reads, checks and packs images."""
    async with (
        _ports(settings, Role.WORKER) as ports,
        DecodePool.running(settings.decode_limits, ports.telemetry) as decoders,
    ):
        with ThreadPoolExecutor(settings.ingest_threads, "ingest") as executor:
            context = WorkerContext(
                table=Table(ports.records, DatasetRecord),
                blobs=ports.blobs,
                queue=ports.queue,
                clock=SystemClock(),
                telemetry=ports.telemetry,
                executor=executor,
                decoders=decoders,
                room=SnapshotRoom(Accounts(ports.records, SERVICE, {}), limits_of(settings)),
                holds=Holds(ports.records),
                holder=processes.identity(),
            )
            await worker.run(context, settings, settings.ingest_jobs, stop)


if __name__ == "__main__":
    main()

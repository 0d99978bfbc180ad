"""ExportModel: one archive for whoever asks, made by a worker whatever dies, and streamed with its digest."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec.structs import replace

from services.kit.errors import ExportUnavailable
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics
from services.trainer.domain import ModelState, Served
from services.trainer.export import OUTDATED, drafted
from services.trainer.settings import TrainerSettings
from services.trainer.work import WorkState
from services.trainer.worker.child_pool import Child, ChildPool
from services.trainer.worker.worker import Worker
from services.trainer.worker.workspace import Workspace
from services.vision import bundle
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.exports.formats import ExportFormat
from sightline.v1 import model_service_pb2 as pb
from sightline.v1 import progress_pb2
from tests.service.test_trainer import INVALID, MISSING, PRECONDITION, M, World, fields_at_fault, refused, world
from tests.service.test_trainer import request as creation
from tests.support.detectors import detector
from tests.support.exported import Archive
from tests.support.waiting import eventually
from tests.unit.trainer.support import START, model, performance
from tests.unit.vision.test_bundle import classifier

ONNX = pb.ExportModelRequest.ONNX


@pytest.fixture
async def trainer() -> AsyncIterator[World]:
    async with world() as made:
        yield made


class Received:
    """What a stream has sent."""

    def __init__(self) -> None:
        self.progress: list[pb.ExportProgress] = []
        self.header = pb.ExportHeader()
        self.data = b""

    def take(self, message: pb.ExportModelResponse) -> None:
        match message.WhichOneof("part"):
            case "progress":
                assert not self.header.sha256, "progress comes first"
                self.progress.append(message.progress)
            case "header":
                assert not self.header.sha256, "there is one header"
                self.header = message.header
            case _:
                assert self.header.sha256, "bytes follow the header"
                assert 0 < len(message.chunk) <= 1 << 20
                self.data += message.chunk


async def export(
    trainer: World,
    *,
    timeout: float = 60,  # noqa: ASYNC109 - the call's deadline
    received: Received | None = None,
    **changes: Any,
) -> Received:
    received = received or Received()
    values: dict[str, Any] = {"name": M, "format": ONNX, **changes}
    asked = pb.ExportModelRequest(**values)
    async for message in trainer.models.ExportModel(asked, timeout=timeout):
        received.take(message)
    return received


async def exported(trainer: World, **changes: Any) -> Received:
    """The export, with a worker that does what is due."""
    call = asyncio.ensure_future(export(trainer, **changes))
    while not call.done():
        await trainer.step()
    return await call


async def test_a_worker_makes_an_archive_once_and_every_call_gets_the_same_bytes(trainer: World) -> None:
    done = await trainer.trained()
    first = await exported(trainer)
    assert first.data == trainer.worker.archive
    assert first.progress[0].name.startswith(f"{M}/exports/onnx-")
    header = first.header
    assert (header.size_bytes, header.sha256) == (len(first.data), hashlib.sha256(first.data).hexdigest())
    assert (header.model_version, header.file_name, header.max_difference) == (done.model_version, "m.zip", 1e-7)
    again = await export(trainer)
    assert (again.data, again.header, again.progress) == (first.data, header, [])
    assert trainer.worker.exported == 1
    assert (await trainer.get()).training_cost == done.training_cost
    assert trainer.telemetry.value(metrics.EXPORTS, format="onnx", result="made") == 1
    assert trainer.telemetry.value(metrics.EXPORTS, format="onnx", result="kept") == 1
    (key,) = (key for key in trainer.blobs._data if "/exports/" in key)
    assert key.startswith(f"{M}/")


async def test_calls_at_the_same_time_share_the_work_and_another_format_is_made_for_itself(trainer: World) -> None:
    await trainer.trained()
    calls = [asyncio.ensure_future(export(trainer)) for _ in range(5)]
    calls.append(asyncio.ensure_future(export(trainer, format=pb.ExportModelRequest.OPENVINO)))
    while not all(call.done() for call in calls):
        await trainer.step()
    assert {(await call).data for call in calls} == {trainer.worker.archive}
    assert trainer.worker.exported == 2


async def test_a_stream_continues_where_another_broke_off(trainer: World) -> None:
    await trainer.trained()
    whole = await exported(trainer)
    rest = await export(trainer, read_offset=1_234_567)
    assert rest.data == whole.data[1_234_567:]
    assert rest.header == whole.header
    assert (await export(trainer, read_offset=len(whole.data))).data == b""
    assert (await export(trainer, read_offset=len(whole.data) + 1)).data == b""


async def test_a_waiting_call_says_why_and_ends_before_its_deadline(trainer: World) -> None:
    await trainer.trained()
    received = Received()
    call = export(trainer, timeout=8, received=received)
    await refused(call, grpc.StatusCode.UNAVAILABLE, "ExportTimedOut", "no worker has taken it")
    assert received.progress[-1].waiting.reason == progress_pb2.Waiting.NO_WORKER
    assert trainer.telemetry.value(metrics.EXPORTS, format="onnx", result="timed_out") == 1
    assert (await exported(trainer)).data == trainer.worker.archive, "the work was not lost"
    assert trainer.worker.exported == 1


async def test_a_failure_is_the_caller_s_and_the_next_call_tries_again(trainer: World) -> None:
    await trainer.trained()
    trainer.worker.failure = ExportUnavailable(name=M, format="openvino", problem="the worker has no openvino")
    call = asyncio.ensure_future(export(trainer, format=pb.ExportModelRequest.OPENVINO))
    while not call.done():
        await trainer.step()
    await refused(call, PRECONDITION, "ExportUnavailable", "the worker has no openvino")
    trainer.worker.failure = None
    assert (await exported(trainer, format=pb.ExportModelRequest.OPENVINO)).data == trainer.worker.archive
    assert trainer.worker.exported == 2


async def test_an_archive_that_the_store_lost_is_made_again(trainer: World) -> None:
    await trainer.trained()
    await exported(trainer)
    (key,) = (key for key in trainer.blobs._data if "/exports/" in key)
    await trainer.blobs.delete(key)
    await refused(export(trainer), grpc.StatusCode.UNAVAILABLE, "Unavailable", "made again")
    assert (await exported(trainer)).data == trainer.worker.archive


async def test_what_cannot_be_exported_is_refused(trainer: World) -> None:
    await refused(export(trainer), MISSING, "ModelNotFound")
    await refused(export(trainer, name="nonsense"), INVALID, "InvalidName")
    assert await fields_at_fault(export(trainer, format=0)) == ["format"]
    assert await fields_at_fault(export(trainer, format=77)) == ["format"]
    assert await fields_at_fault(export(trainer, read_offset=-1)) == ["read_offset"]
    await trainer.models.CreateModel(creation())
    await refused(export(trainer), PRECONDITION, "ModelNotReady")
    assert not trainer.store.exports.view.all()


async def test_exports_go_with_their_model_and_with_versions_that_are_no_longer_served(trainer: World) -> None:
    await trainer.trained()
    await exported(trainer)
    found = (await trainer.store.models.get(M)).value
    assert found.served is not None
    kept = trainer.store.exports.view.all()[0].value
    now = trainer.clock.now()
    assert kept.is_wanted(found, now + 2 * OUTDATED)
    better = Served(
        trial=found.served.trial, version="better", bundle_key="b/", performance=performance(), performance_key="p"
    )
    newer = replace(found, served=better)
    assert kept.is_wanted(newer, now), "somebody may be reading it"
    assert not kept.is_wanted(newer, now + 2 * OUTDATED)
    assert not kept.is_wanted(replace(found, uid="other"), now)
    await trainer.models.DeleteModel(pb.DeleteModelRequest(name=M))
    await eventually(lambda: not trainer.store.exports.view.all())
    assert not [key for key in trainer.blobs._data if "/exports/" in key]
    orphan = drafted(found, found.served, ExportFormat.ONNX, now)
    await trainer.store.exports.create(orphan)
    await trainer.coordinator.reconcile()
    await eventually(lambda: not trainer.store.exports.view.all())
    assert trainer.worker.exported == 1


# With a real worker.


class RecordingPool(ChildPool):
    """Records the process ids of the children that it hands out."""

    pids: list[int]

    async def take(self) -> Child:
        child = await super().take()
        self.pids.append(child.pid)
        return child


@pytest.fixture
async def pool() -> AsyncIterator[RecordingPool]:
    made = RecordingPool(threads=1, spares=False)
    made.pids = []
    yield made
    await made.close()


def worker_of(trainer: World, pool: ChildPool, root: Path) -> Worker:
    settings = TrainerSettings(heartbeat_seconds=0.2, threads=1)
    workspace, records = Workspace(root / "worker", trainer.blobs), trainer.store
    return Worker("w", records, workspace, pool, settings, trainer.clock, MemoryTelemetry())


async def serve(trainer: World, network: Classifier | Detector, root: Path) -> None:
    """A model that has been trained to this network."""
    digest = await asyncio.to_thread(bundle.write, root / "bundle", network)
    for path in (root / "bundle").iterdir():
        await trainer.blobs.put_file(f"{M}/uid1/bundle/{path.name}", path)
    served = Served(
        trial=f"{M}/trials/t000",
        version="v1",
        bundle_key=f"{M}/uid1/bundle/",
        bundle_digest=digest,
        performance=performance(),
        performance_key="p",
    )
    kind = network.card.kind
    await trainer.store.models.create(
        model(state=ModelState.SUCCEEDED, served=served, end_time=START, start_time=START, model_kind=kind)
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_archive_is_made_although_a_process_is_killed_meanwhile(
    trainer: World, pool: RecordingPool, tmp_path: Path
) -> None:
    await serve(trainer, classifier("squeezenet1_1"), tmp_path)
    worker = worker_of(trainer, pool, tmp_path)
    call = asyncio.ensure_future(export(trainer, timeout=280, format=pb.ExportModelRequest.TORCH_EXPORT))
    await eventually(lambda: bool(trainer.store.exports.view.all()))
    name = trainer.store.exports.view.all()[0].value.name
    handling = asyncio.create_task(worker.handle(name))

    def begun() -> bool:
        return trainer.store.exports.view.all()[0].value.work.progress > 0

    await eventually(begun, timedelta(seconds=60).total_seconds())
    os.kill(pool.pids[0], signal.SIGKILL)
    await handling
    received = await call
    assert hashlib.sha256(received.data).hexdigest() == received.header.sha256
    assert received.header.max_difference <= 1e-4
    assert any(progress.fraction > 0 for progress in received.progress)
    (found,) = (one.value for one in trainer.store.exports.view.all())
    assert (found.work.state, found.work.attempt) == (WorkState.SUCCEEDED, 2)
    archive = Archive(received.data, tmp_path)
    assert archive.run("--check").returncode == 0


@pytest.mark.slow
async def test_a_detector_without_a_graph_is_refused_before_any_worker_is_needed(
    trainer: World, tmp_path: Path
) -> None:
    await serve(trainer, detector("dfine_nano"), tmp_path)
    await refused(export(trainer), PRECONDITION, "ExportUnavailable", "dfine_nano", "YOLOX")
    assert not trainer.store.exports.view.all()

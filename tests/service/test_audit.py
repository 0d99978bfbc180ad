"""The audit at a real server: what has an entry, what is in it, and what happens when it cannot be written."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.infra import audit, audit_sinks
from services.infra.audit import Audit
from services.infra.audit_sinks import LOST, WAITING, FileSink
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from sightline.client import keys
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.certificates import replace
from tests.support.runtime import bare_channel, serving
from tests.support.tokens import Issuer, publish, settings
from tests.support.waiting import eventually

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
DELETE = dataset_service_pb2.DeleteDatasetRequest(name="datasets/birds")


async def entries(tmp_path: Path, metadata: Any, **changes: Any) -> list[dict[str, Any]]:
    """What the audit has after a read, a deletion, an upload and predictions by a caller."""
    file = tmp_path / "audit" / "test.jsonl"
    async with (
        serving(audit=str(file), log_level="CRITICAL", **changes) as running,
        bare_channel(running.address) as channel,
    ):
        datasets, predictions = DatasetServiceStub(channel), PredictionServiceStub(channel)
        header = dataset_service_pb2.UploadFilesHeader(upload_id="u1")
        upload = dataset_service_pb2.UploadFilesRequest(header=header)
        image = prediction_service_pb2.AnalyzeImageRequest(model_name="models/m")
        streamed = prediction_service_pb2.AnalyzeImagesRequest(id="1", request=image)
        batch = prediction_service_pb2.CreateBatchPredictionRequest(batch_prediction_id="b")
        for begin in (
            lambda: datasets.GetDataset(GET, metadata=metadata),
            lambda: datasets.DeleteDataset(DELETE, metadata=metadata),
            lambda: datasets.UploadFiles(iter([upload]), metadata=metadata),
            lambda: predictions.AnalyzeImage(image, metadata=metadata),
            lambda: predictions.AnalyzeImages(iter([streamed]), metadata=metadata).read(),
            lambda: predictions.CreateBatchPrediction(batch, metadata=metadata),
        ):
            with suppress(grpc.aio.AioRpcError):
                await begin()
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_writes_and_uses_have_an_entry_with_caller_resource_and_outcome(tmp_path: Path) -> None:
    issuer = Issuer()
    metadata = [bearer(issuer.token("admin", sub="alice")), ("x-request-id", "r1")]
    found = await entries(tmp_path, metadata, **settings(publish(tmp_path / "jwks.json", issuer)))
    assert [(one["rpc"], one["resource"]) for one in found] == [
        ("DatasetService/DeleteDataset", "datasets/birds"),
        ("DatasetService/UploadFiles", "u1"),
        ("PredictionService/AnalyzeImage", "models/m"),
        ("PredictionService/AnalyzeImages", "models/m"),
        ("PredictionService/CreateBatchPrediction", "b"),
    ]
    first = found[0]
    assert first["audit"] == 1
    assert first["time"].endswith("+00:00")
    assert first["peer"].startswith("ipv")
    named = {name: first[name] for name in ("service", "issuer", "subject", "project", "code", "reason", "request_id")}
    assert named == {
        "service": "test",
        "issuer": "https://issuer.example",
        "subject": "alice",
        "project": "default",
        "code": "OK",
        "reason": "",
        "request_id": "r1",
    }


async def test_denials_of_reads_too_have_an_entry_which_names_the_caller_if_the_token_does(tmp_path: Path) -> None:
    key, line = keys.make("eve", "viewer")
    file = replace(tmp_path / "keys", line.encode())
    denied = await entries(tmp_path, [bearer(key)], auth_keys=file)
    assert [(one["subject"], one["code"]) for one in denied] == [("eve", "PERMISSION_DENIED")] * 5
    (tmp_path / "audit" / "test.jsonl").unlink()
    unknown = await entries(tmp_path, None, auth_keys=file)
    assert [(one["subject"], one["code"], one["reason"]) for one in unknown] == [
        ("", "UNAUTHENTICATED", "Unauthenticated")
    ] * 6


async def test_reads_have_an_entry_if_the_setting_asks_for_them(tmp_path: Path) -> None:
    found = await entries(tmp_path, None, audit_reads=True)
    assert found[0]["rpc"] == "DatasetService/GetDataset"
    assert len(found) == 6


async def test_the_audit_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(audit="none") as running, bare_channel(running.address) as channel:
        await DatasetServiceStub(channel).DeleteDataset(DELETE)
    assert capsys.readouterr().out == ""


async def test_by_default_entries_go_to_standard_output_at_any_log_level(
    capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIGHTLINE_AUDIT")
    async with serving(log_level="CRITICAL") as running, bare_channel(running.address) as channel:
        await DatasetServiceStub(channel).DeleteDataset(DELETE)
    assert json.loads(capfdbinary.readouterr().out)["rpc"] == "DatasetService/DeleteDataset"


class FailingSink:
    """A full disk, until it is not."""

    name = "file"

    def __init__(self) -> None:
        self.full, self.written = True, b""

    def write(self, lines: Sequence[bytes]) -> None:
        if self.full:
            raise OSError("no space left on device")
        self.written += b"".join(lines)

    def close(self) -> None: ...


class HangingSink(FailingSink):
    """A disk that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def write(self, lines: Sequence[bytes]) -> None:
        self.closed.wait()
        raise OSError("given up")

    def close(self) -> None:
        self.closed.set()


def lost(telemetry: MemoryTelemetry) -> float:
    return telemetry.value(LOST, sink="file")


def delete(noting: Audit, request_id: str) -> None:
    noting.note("/sightline.v1.DatasetService/DeleteDataset", "OK", "", request_id, "peer")


async def test_entries_that_cannot_be_written_are_counted_and_do_not_hold_up_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_sinks, "MAX_WAITING", 3)
    telemetry, sink = MemoryTelemetry(), FailingSink()
    noting = Audit("test", [sink], telemetry)
    delete(noting, "r1")
    await eventually(lambda: lost(telemetry) == 1)
    sink.full = False
    delete(noting, "r2")
    noting.close()
    assert json.loads(sink.written)["request_id"] == "r2"
    for _ in range(5):  # the writer has ended: nothing takes entries from the queue
        delete(noting, "r3")
    assert lost(telemetry) == 3
    assert telemetry.value(WAITING, sink="file") == 3


def test_what_is_not_written_when_the_process_ends_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_sinks, "CLOSE_SECONDS", 0.1)
    telemetry = MemoryTelemetry()
    noting = Audit("test", [HangingSink()], telemetry)
    for number in range(5):
        delete(noting, f"r{number}")
    assert telemetry.value(WAITING, sink="file") == 5
    noting.close()
    assert lost(telemetry) == 5
    assert telemetry.value(WAITING, sink="file") == 0


def test_entries_go_to_every_place_that_the_setting_names(tmp_path: Path, capfdbinary: Any) -> None:
    settings = Settings(audit=f"stdout, {tmp_path / 'file'}")
    noting = audit.of_settings("test", settings, MemoryTelemetry())
    assert noting
    delete(noting, "r1")
    noting.close()
    assert capfdbinary.readouterr().out == (tmp_path / "file").read_bytes() != b""


def test_a_file_is_private_appended_to_and_made_anew_when_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    FileSink(path).write([b"1\n"])
    sink = FileSink(path)
    sink.write([b"2\n"])
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "audit.jsonl.1")
    sink.write([b"3\n"])
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"

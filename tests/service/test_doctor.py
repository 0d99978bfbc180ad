"""`sightline doctor` against real servers: it confirms what works and names each injected fault."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.aio.client import ServerVersion
from nats.js.api import PersistMode, StreamConfig

from services.infra import doctor_machine, findings
from services.infra.doctor import DoctorSettings
from services.infra.doctor_keys import check_keys
from services.infra.doctor_machine import check_confinement, check_devices, check_folders, check_memory, check_weights
from services.infra.doctor_nats import check_nats
from services.infra.doctor_services import check_gateway, check_services
from services.infra.doctor_store import check_store
from services.infra.findings import Finding, Level, Report
from services.infra.jetstream import connect
from services.infra.jetstream_queue import STREAM as JOBS
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.kit import confinement, landlock
from sightline.client import signing_keys
from sightline.local.nats_users import ADMIN, USERS, authorization
from tests.support.runtime import serving
from tests.support.s3 import S3Server
from tests.support.servers import ACK_WAIT, NatsServer, free_port


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    total: int
    used: int
    free: int


async def found(area: str, check: Any) -> list[Finding]:
    """The check's findings; every one that is not ok must have a remedy."""
    made = await findings.examine(area, check)
    assert made
    assert all(one.remedy for one in made if one.level is not Level.OK)
    return made


def texts(made: list[Finding], level: Level) -> str:
    return "\n".join(one.text for one in made if one.level is level)


def nats(url: str, **changes: Any) -> Any:
    return partial(check_nats, settings=DoctorSettings(nats_url=url, **changes), monitor_url="")


async def test_a_good_nats_server_is_confirmed(nats_server: NatsServer) -> None:
    made = await found("nats", nats(nats_server.url))
    assert not texts(made, Level.FAULT)
    good = texts(made, Level.OK)
    for words in ("answers", "max_payload", "limits suffice", "read back", "clock agrees"):
        assert words in good


async def test_the_suites_streams_are_checked(own_nats_server: NatsServer) -> None:
    connection = await connect(own_nats_server.url, "test")
    await JetStreamRecords(connection).ensure()
    await JetStreamQueue(connection, ACK_WAIT).ensure_stream()
    await connection.close()
    made = await found("nats", nats(own_nats_server.url))
    assert texts(made, Level.OK).count("is kept in files, in 1 copy") == 2
    made = await found("nats", nats(own_nats_server.url, nats_replicas=3))
    assert texts(made, Level.WARNING).count("SIGHTLINE_NATS_REPLICAS asks for 3") == 2


@pytest.mark.parametrize("user", USERS)
async def test_as_the_user_of_a_process_what_it_may_not_do_is_no_fault(tmp_path: Path, user: str) -> None:
    with NatsServer(tmp_path, config=authorization(dict.fromkeys((*USERS, ADMIN), "secret"))) as server:
        made = await found("nats", nats(server.url, nats_user=user, nats_password="secret"))
    assert not texts(made, Level.FAULT)
    assert f"SIGHTLINE_NATS_USER={ADMIN}" in texts(made, Level.OK)


async def test_the_check_of_nats_leaves_nothing_behind(own_nats_server: NatsServer) -> None:
    await found("nats", nats(own_nats_server.url))
    connection = await connect(own_nats_server.url, "test")
    assert await connection.jetstream().streams_info() == []
    await connection.close()


async def test_a_nats_server_that_is_down_is_a_fault() -> None:
    made = await found("nats", nats(f"nats://127.0.0.1:{free_port()}"))
    assert "cannot be used" in texts(made, Level.FAULT)


async def test_a_password_in_the_url_is_not_shown() -> None:
    made = await found("nats", nats(f"nats://me:secret@127.0.0.1:{free_port()}"))
    assert "secret" not in str(made)


async def test_a_nats_server_without_jetstream_is_a_fault(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config="accounts { plain: { users: [{user: u, password: p}] } }") as server:
        made = await found("nats", nats(server.url.replace("//", "//u:p@")))
    assert "JetStream is off" in texts(made, Level.FAULT)


async def test_a_message_limit_too_small_for_a_record_is_a_fault(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config="max_payload: 65536") as server:
        made = await found("nats", nats(server.url))
    assert "records do not fit" in texts(made, Level.FAULT)


async def test_an_account_without_room_for_two_streams_is_a_fault(tmp_path: Path) -> None:
    config = "accounts { small: { users: [{user: u, password: p}], jetstream: { max_streams: 1, max_file: 1M } } }"
    with NatsServer(tmp_path, config=config) as server:
        made = await found("nats", nats(server.url.replace("//", "//u:p@")))
    assert "may have 1 stream" in texts(made, Level.FAULT)
    assert "may store" in texts(made, Level.WARNING)


async def test_durability_is_read_from_the_monitoring_endpoint_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    with NatsServer(tmp_path, config=f'http: "127.0.0.1:{port}"') as server:
        settings = DoctorSettings(nats_url=server.url)
        check = partial(check_nats, settings=settings, monitor_url=f"http://127.0.0.1:{port}")
        made = await found("nats", check)
    assert "goes to disk before it is confirmed" in texts(made, Level.OK)
    assert not texts(made, Level.WARNING)


async def test_without_the_monitoring_endpoint_durability_is_unknown(nats_server: NatsServer) -> None:
    made = await found("nats", nats(nats_server.url))
    assert "unknown whether each write goes to disk" in texts(made, Level.WARNING)


ALWAYS = {"sync_interval": 1, "sync_always": True}
NEVER = {"sync_interval": 120_000_000_000}


@pytest.mark.parametrize(
    ("version", "config", "expected"),
    [
        ((2, 9, 10), ALWAYS, [(Level.WARNING, "every two minutes")]),
        ((2, 14, 6), ALWAYS, [(Level.WARNING, "files that it compacts"), (Level.OK, "each write goes to disk")]),
        ((2, 15, 1), ALWAYS, [(Level.OK, "each write (of a replicated stream, each Raft entry) goes to disk")]),
        ((2, 15, 1), NEVER, [(Level.WARNING, "every 120 s")]),
    ],
)
async def test_durability_depends_on_the_version_and_is_asked_for_without_a_proxy(
    version: tuple[int, int, int],
    config: object,
    expected: list[tuple[Level, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    class Connection:
        connected_server_version = ServerVersion(".".join(map(str, version)))

    from services.infra import doctor_nats

    with answering({"jetstream": {"config": config}}) as url:
        report = Report("nats")
        await doctor_nats._durability(report, Connection(), url)  # type: ignore[arg-type]  # only what is used of it
    assert len(report.findings) == len(expected)
    for one, (level, words) in zip(report.findings, expected, strict=True):
        assert one.level is level
        assert words in one.text


async def test_a_stream_that_confirms_before_it_stores_is_a_fault(own_nats_server: NatsServer) -> None:
    connection = await connect(own_nats_server.url, "test")
    config = StreamConfig(name=JOBS, subjects=["sightline.jobs.>"], persist_mode=PersistMode.ASYNC)
    await connection.jetstream().add_stream(config)
    await connection.close()
    made = await found("nats", nats(own_nats_server.url))
    assert f"{JOBS} confirms writes before they are stored" in texts(made, Level.FAULT)


@contextmanager
def answering(document: object) -> Generator[str]:
    """A server that answers everything with the document."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name there

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def store(**settings: Any) -> Any:
    return partial(check_store, settings=DoctorSettings(**settings))


def s3(server: S3Server, **changes: Any) -> Any:
    settings = {
        "s3_endpoint": server.endpoint,
        "s3_access_key": server.access_key,
        "s3_secret_key": server.secret_key,
        "s3_secure": False,
        "bucket": "doctors",
    }
    return store(**{**settings, **changes})


async def test_a_good_folder_is_confirmed_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "sightline" / "weights").mkdir(parents=True)
    made = await found("store", store(store_directory=tmp_path))
    assert not texts(made, Level.FAULT)
    assert "put, get, range, list and delete work" in texts(made, Level.OK)
    assert not await asyncio.to_thread(lambda: [path for path in tmp_path.rglob("*") if path.is_file()])


async def test_a_folder_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    made = await found("store", store(store_directory=tmp_path / "store"))
    assert "cannot be used" in texts(made, Level.FAULT)


async def test_a_full_folder_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Usage(10**9, 10**9, 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    made = await found("store", store(store_directory=tmp_path))
    assert "0.0 GiB are free" in texts(made, Level.FAULT)


async def test_no_store_at_all_is_a_fault() -> None:
    assert "there is no store" in texts(await found("store", store()), Level.FAULT)


async def test_a_good_s3_server_is_confirmed(s3_server: S3Server) -> None:
    made = await found("store", s3(s3_server))
    assert not texts(made, Level.FAULT) + texts(made, Level.WARNING)
    good = texts(made, Level.OK)
    for words in ("list and delete work", "a wrong secret is refused", "clock agrees"):
        assert words in good


async def test_a_wrong_secret_is_a_fault(s3_server: S3Server) -> None:
    made = await found("store", s3(s3_server, s3_secret_key="wrong"))
    assert "cannot be used" in texts(made, Level.FAULT)
    assert s3_server.secret_key not in str(made)


async def test_an_s3_server_that_is_down_is_a_fault(s3_server: S3Server) -> None:
    made = await found("store", s3(s3_server, s3_endpoint=f"127.0.0.1:{free_port()}"))
    assert "cannot be used" in texts(made, Level.FAULT)


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.4, Level.OK), (-3.0, Level.WARNING), (60.0, Level.FAULT), (-60.0, Level.FAULT)]
)
def test_a_wrong_clock_is_reported(seconds: float, level: Level) -> None:
    report = Report("nats")
    report.skew("nats-server", seconds)
    assert [one.level for one in report.findings] == [level]


@pytest.fixture
async def addresses(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Addresses of two services that run, one of them not serving, and of a predictor that does not."""

    async def never() -> bool:
        return False

    async with serving() as one, serving(ready=never, patience_seconds=0.1) as two:
        monkeypatch.setenv("SIGHTLINE_DATASET_ADDRESS", one.address)
        monkeypatch.setenv("SIGHTLINE_TRAINER_ADDRESS", two.address)
        monkeypatch.setenv("SIGHTLINE_PREDICTOR_ADDRESS", f"127.0.0.1:{free_port()}")
        yield


@pytest.mark.usefixtures("addresses")
async def test_services_that_serve_do_not_serve_or_do_not_answer_are_distinguished() -> None:
    made = await found("services", partial(check_services, settings=DoctorSettings()))
    assert [one.level for one in made] == [Level.OK, Level.FAULT, Level.FAULT]
    assert "does not serve" in made[1].text
    assert "does not answer" in made[2].text
    assert "SIGHTLINE_PREDICTOR_ADDRESS" in made[2].remedy


async def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders: dict[str, Path | None] = {"SIGHTLINE_WORK_DIR": tmp_path / "file" / "work", "SIGHTLINE_OTHER": None}
    made = await found("folders", partial(check_folders, folders=folders))
    assert "cannot be written" in texts(made, Level.FAULT)
    assert len(made) == 2


async def test_a_required_but_missing_gpu_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "finds no GPU" in texts(await found("devices", partial(check_devices, wanted="cuda")), Level.FAULT)
    assert "computes on" in texts(await found("devices", check_devices), Level.OK)


async def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Usage(64 * 2**20, 0, 64 * 2**20)
    monkeypatch.setattr(doctor_machine, "SHARED", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    assert "has 64 MiB" in texts(await found("memory", check_memory), Level.WARNING)


async def test_a_limit_of_memory_is_told_and_a_small_one_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "CGROUP", tmp_path)
    monkeypatch.setattr(doctor_machine, "WORKER_BYTES", 2**20)
    for text, level, said in (
        ("max", Level.OK, "without a limit"),
        (str(2**20), Level.OK, "a limit of 0.0 GiB"),
        (str(2**20 - 1), Level.WARNING, "a limit of"),
    ):
        (tmp_path / "memory.max").write_text(f"{text}\n")
        assert said in texts(await found("memory", check_memory), level)


async def test_what_processes_give_up_is_told_as_it_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await found("confinement", check_confinement)
    allowed = "have no network" in texts(told, Level.OK)
    assert allowed or "do not allow" in texts(told, Level.WARNING) or "does not allow" in texts(told, Level.WARNING)
    assert ("open no files but their own" in texts(told, Level.OK)) is bool(landlock.supported())
    assert "their memory can be limited" in texts(told, Level.OK)
    monkeypatch.setattr(doctor_machine, "CONFINED", "print(False, False, False)")
    refused = texts(await found("confinement", check_confinement), Level.WARNING)
    assert "share this machine's network" in refused
    assert "cannot be limited" in refused
    assert "no Landlock" in refused
    monkeypatch.setattr(doctor_machine, "CONFINED", "print(True, True, True)")
    monkeypatch.setattr(confinement, "has_gpu", lambda: True)
    told = await found("confinement", check_confinement)
    assert "training children keep it" in texts(told, Level.OK)
    assert "training children open others" in texts(told, Level.OK)


async def test_keys_that_do_not_fit_or_cannot_be_used_are_faults(tmp_path: Path) -> None:
    (private, public), (stranger, _) = signing_keys.make(), signing_keys.make()
    keys, own = tmp_path / "bundle-key.pem", tmp_path / "signing-key.pem"
    keys.write_text(public)
    own.touch(0o600)
    fingerprint = signing_keys.fingerprint(signing_keys.public_keys(public.encode())[0])

    async def checked(key: str, trusted: Path | None, rule: str = "require") -> list[Finding]:
        return await found(
            "keys", partial(check_keys, signing_key=key, signing_file=own, bundle_key=trusted, rule=rule)
        )

    assert f"signed here, with {fingerprint}" in texts(await checked(private, keys), Level.OK)
    assert "lacks the public key" in texts(await checked(stranger, keys), Level.FAULT)
    assert "SIGHTLINE_SIGNING_KEY: expected" in texts(await checked("nonsense", keys), Level.FAULT)
    assert "SIGHTLINE_BUNDLE_KEY cannot be used" in texts(await checked("", own), Level.FAULT)
    assert "SIGHTLINE_BUNDLE_KEY cannot be used" in texts(await checked("", tmp_path / "none"), Level.FAULT)
    assert "whether they are signed or not" in texts(await checked("", None), Level.OK)
    for rule in ("accept", "off"):
        assert f"SIGHTLINE_BUNDLE_SIGNATURES is {rule}" in texts(await checked("", keys, rule), Level.WARNING)
    own.chmod(0o644)
    assert "can read the signing key" in texts(await checked(private, keys), Level.WARNING)


@contextmanager
def gateway(status: int) -> Generator[str]:
    """Something that answers /readyz with the status."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the library's name

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_gateway_that_is_ready_unready_or_away_is_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    async def checked(url: str) -> list[Finding]:
        return await found("gateway", partial(check_gateway, url=url, authority=""))

    with gateway(200) as url:
        assert "is ready" in texts(await checked(f"{url}/"), Level.OK)
    with gateway(503) as url:
        assert "is not ready (503)" in texts(await checked(url), Level.FAULT)
    away = f"http://127.0.0.1:{free_port()}"
    assert "does not answer" in texts(await checked(away), Level.FAULT)
    monkeypatch.setattr("services.infra.doctor_services.GATEWAY", away)
    assert "does not answer" in texts(await checked(""), Level.WARNING)


async def test_weights_are_listed_and_truncated_ones_are_faults(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + b"1234"
    (tmp_path / "resnet18.safetensors").write_bytes(whole)
    (tmp_path / "resnet50.safetensors").write_bytes(whole[:-1])
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    made = await found("weights", partial(check_weights, folder=tmp_path, download=False))
    assert "weights of resnet18" in texts(made, Level.OK)
    faults = texts(made, Level.FAULT)
    assert ("resnet50" in faults, "page" in faults, len(made)) == (True, True, 3)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no weights" in texts(
        await found("weights", partial(check_weights, folder=empty, download=False)), Level.WARNING
    )


async def test_a_check_that_raises_is_a_fault_and_the_others_continue() -> None:
    async def breaks(report: Report) -> None:
        report.ok("so far")
        raise ValueError("odd")

    made = await findings.examine("odd", breaks)
    assert [one.level for one in made] == [Level.OK, Level.FAULT]


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command itself."""
    command = [sys.executable, "-m", "sightline", "doctor", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


async def test_the_command_exits_with_1_if_there_is_a_fault_and_with_0_otherwise(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    well = {"SIGHTLINE_NATS_URL": nats_server.url, "SIGHTLINE_STORE_DIRECTORY": str(tmp_path)}
    areas = ("--only", "nats", "--only", "store")
    done = await asyncio.to_thread(doctor, *areas, "--only", "devices", **well)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
    away = {**well, "SIGHTLINE_NATS_URL": f"nats://127.0.0.1:{free_port()}"}
    done = await asyncio.to_thread(doctor, "--json", *areas, **away)
    assert done.stdout, done.stderr
    printed = json.loads(done.stdout)
    assert (done.returncode, printed["faults"]) == (1, 1)
    assert {"area", "level", "text", "remedy"} == set(printed["checks"][0])


async def test_inside_a_workers_pod_the_services_are_not_asked() -> None:
    areas = [word for area in ("services", "gateway", "keys", "memory") for word in ("--only", area)]
    done = await asyncio.to_thread(doctor, "--inside", "--json", *areas)
    assert {one["area"] for one in json.loads(done.stdout)["checks"]} == {"keys", "memory"}, done.stderr


def test_the_command_recognises_the_folder_of_a_suite(tmp_path: Path) -> None:
    done = doctor("--data", str(tmp_path))
    assert (done.returncode, "is not the folder of a suite" in done.stderr) == (1, True)

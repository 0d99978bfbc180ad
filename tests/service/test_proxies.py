"""A proxy in the environment: loopback is reached without it, and an error that it causes names it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.infra import doctor_services
from services.infra.channel import open_channel
from services.infra.doctor_services import check_services
from services.infra.findings import Level, Report
from services.infra.observe import MetricsEndpoint
from services.kit.errors import Unavailable
from services.kit.settings import Settings
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import VARIABLES, Addresses
from sightline.client.transport.credentials import Credentials
from sightline.local.programs import is_serving
from sightline.v1 import dataset_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.support.runtime import serving

ROOT = Path(__file__).parents[2]
GET = dataset_service_pb2.GetDatasetRequest(name="datasets/d")
ELSEWHERE = "10.255.255.1:50051"  # only reachable through the proxy, which refuses
ADVICE = "http_proxy sends calls to 10.255.255.1 through the proxy"


@contextlib.asynccontextmanager
async def refusing_proxy() -> AsyncGenerator[str]:
    """A proxy that answers every request with 403."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[str]:
    """Such a proxy, set for all calls."""
    for name in ("no_proxy", "no_grpc_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with refusing_proxy() as url:
        monkeypatch.setenv("http_proxy", url)
        yield url


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_services_clients_and_up_reach_this_machine_without_the_proxy(proxy, monkeypatch, variable):
    monkeypatch.setenv(variable, proxy)
    async with serving() as running:
        for address in (running.address, running.address.replace("127.0.0.1", "localhost")):
            async with open_channel(address) as channel:
                assert (await DatasetServiceStub(channel).GetDataset(GET)).name == "datasets/d"

            def ask(address: str = address) -> str:
                with Stubs(Addresses(address, address, address), Credentials()) as client:
                    return client.datasets.GetDataset(GET).name

            assert await asyncio.to_thread(ask) == "datasets/d"
        assert await is_serving(running.address)


@pytest.mark.usefixtures("quick_retries")
async def test_a_service_whose_call_a_proxy_refuses_names_the_variable(proxy):
    async with open_channel(ELSEWHERE) as channel:
        with pytest.raises(Unavailable, match=ADVICE):
            await DatasetServiceStub(channel).GetDataset(GET, timeout=20)


async def test_doctor_names_the_variable(proxy, monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, ELSEWHERE)
    monkeypatch.setattr(doctor_services, "SECONDS", 0.5)
    report = Report("services")
    await check_services(report, Settings())
    assert [finding.level for finding in report.findings] == [Level.FAULT] * 3
    assert all(ADVICE in finding.remedy for finding in report.findings)


async def test_doctor_names_a_variable_whose_address_is_malformed(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_TRAINER_ADDRESS", "http://trainer:50052")
    report = Report("services")
    await check_services(report, Settings())
    (finding,) = report.findings
    assert finding.level is Level.FAULT
    assert "SIGHTLINE_TRAINER_ADDRESS: 'http://trainer:50052' begins with http://" in finding.text


async def command(*words: str, **environment: str) -> tuple[int, str]:
    """Runs `sightline`; returns its exit code and everything that it prints."""
    clean = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sightline", *words, env={**clean, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_command_names_the_variable_and_hides_grpcs_own_log(proxy):
    code, output = await command("datasets", "list", SIGHTLINE_DATASET_ADDRESS=ELSEWHERE)
    assert code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert f"fix: {ADVICE}" in output
    assert "HTTP proxy returned response code 403" in output
    assert "http_connect" not in output, "that is gRPC's own line"


async def test_grpcs_own_log_is_shown_on_request(proxy):
    _, output = await command("datasets", "list", SIGHTLINE_DATASET_ADDRESS=ELSEWHERE, GRPC_VERBOSITY="ERROR")
    assert "http_connect" in output


@pytest.mark.parametrize(("name", "port"), [("dataset-worker", "9090"), ("predictor", "8081")])
async def test_health_checks_of_compose_ignore_the_proxy_that_the_engine_sets(proxy, name, port):
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    _, _, *arguments = services[name]["healthcheck"]["test"]

    async def passes(own_port: int) -> bool:
        words = [str(word).replace(port, str(own_port)) for word in arguments]
        return await (await asyncio.create_subprocess_exec(sys.executable, *words)).wait() == 0

    late = False
    with contextlib.closing(MetricsEndpoint(CollectorRegistry(), "127.0.0.1", 0, lambda: late)) as endpoint:
        async with serving() as running:
            own_port = endpoint.port if port == "9090" else int(running.address.rpartition(":")[2])
            assert await passes(own_port)
            late = True
        assert not await passes(own_port)

"""Each attack, short: while it runs, another caller's calls succeed, and the server holds no more than it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.vision.decode_metrics import ADMITTED
from sightline.client import keys
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.attack.files import KINDS
from tests.attack.kinds import MODEL, SERVICE_OF, Target, strike
from tests.support.runtime import Serving, bare_channel, serving
from tests.unit.predictor.serving import IMAGE
from tests.unit.predictor.serving import serving as predicting

CALLS = 400  # of an attack
GOOD_CALLS = 60
GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
BUDGET = 16 << 20
GOOD_PREDICTIONS = 8
BUDGET_OF_IMAGES = 128 << 20


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """A key of each role, in the file `keys`."""
    made = {role: keys.make(role, role) for role in keys.ROLES}
    (tmp_path / "keys").write_text("\n".join(line for _, line in made.values()) + "\n")
    return {role: key for role, (key, _) in made.items()}


async def act(request: Any, _context: object) -> None:
    """Watches last."""
    if isinstance(request, dataset_service_pb2.WatchDatasetRequest):
        await asyncio.Event().wait()


async def good_predictions(address: str, token: str) -> None:
    """Predictions on a new connection; raises if one fails."""
    request = prediction_service_pb2.AnalyzeImageRequest(model_name=MODEL, image=IMAGE)
    async with bare_channel(address) as channel:
        for _ in range(GOOD_PREDICTIONS):
            await PredictionServiceStub(channel).AnalyzeImage(request, metadata=[bearer(token)], timeout=30)
            await asyncio.sleep(0.02)


async def good_calls(running: Serving, token: str) -> None:
    """Calls and health checks on a new connection; raises if one fails."""
    async with bare_channel(running.address) as channel:
        health: Any = HealthStub(channel)
        for number in range(GOOD_CALLS):
            await DatasetServiceStub(channel).GetDataset(GET, metadata=[bearer(token)], timeout=10)
            if number % 10 == 0:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            await asyncio.sleep(0.005)


def kinds_on(service: str) -> list[str]:
    return [kind for kind in KINDS if SERVICE_OF[kind] == service]


@asynccontextmanager
async def attacked(kind: str, target: Target) -> AsyncGenerator[None]:
    """While it is attacked; fails if the attack ends by itself."""
    begun = asyncio.Event()
    attacking = asyncio.ensure_future(strike(kind, replace(target, begun=begun.set)))
    try:
        await begun.wait()
        await asyncio.sleep(0.5)  # until the attack is in full swing
        yield
        assert not attacking.done()
    finally:
        attacking.cancel()
        with suppress(asyncio.CancelledError):
            await attacking


@pytest.mark.parametrize("kind", kinds_on("predictor"))
async def test_another_callers_predictions_succeed_during(kind: str, tokens: dict[str, str], tmp_path: Path) -> None:
    limits: dict[str, Any] = {"decode_bytes": BUDGET_OF_IMAGES, "auth_keys": tmp_path / "keys"}
    async with predicting(tmp_path, **limits) as running:
        await good_predictions(running.address, tokens["admin"])
        async with attacked(kind, Target(running.address, tokens, CALLS)):
            await good_predictions(running.address, tokens["admin"])
            assert running.telemetry.value(ADMITTED) <= BUDGET_OF_IMAGES


@pytest.mark.parametrize("kind", kinds_on("dataset"))
async def test_another_callers_calls_succeed_during(kind: str, tokens: dict[str, str], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_calls": 100, "max_bytes_in_flight": BUDGET, "auth_keys": tmp_path / "keys"}
    async with (
        serving(act, image_bytes=2 << 20, **settings) as running,
        attacked(kind, Target(running.address, tokens, CALLS)),
    ):
        await good_calls(running, tokens["admin"])
        assert running.metric("sightline_server_bytes_in_flight") <= BUDGET

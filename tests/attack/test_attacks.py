"""Each attack, short: while it runs, another caller's calls succeed, and the server holds no more than it may."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from sightline.client import keys
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.attack.kinds import KINDS, Target
from tests.support.runtime import Serving, bare_channel, serving

CALLS = 400  # of an attack
GOOD_CALLS = 60
GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
BUDGET = 16 << 20


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


async def good_calls(running: Serving, token: str) -> None:
    """Calls and health checks on a new connection; raises if one fails."""
    async with bare_channel(running.address) as channel:
        health: Any = HealthStub(channel)
        for number in range(GOOD_CALLS):
            await DatasetServiceStub(channel).GetDataset(GET, metadata=[bearer(token)], timeout=10)
            if number % 10 == 0:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", KINDS)
async def test_another_callers_calls_succeed_during(kind: str, tokens: dict[str, str], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_calls": 100, "max_bytes_in_flight": BUDGET, "auth_keys": tmp_path / "keys"}
    async with serving(act, image_bytes=2 << 20, **settings) as running:
        attacking = asyncio.ensure_future(KINDS[kind](Target(running.address, tokens, CALLS)))
        try:
            await asyncio.sleep(0.5)  # until the attack is in full swing
            await good_calls(running, tokens["admin"])
            assert not attacking.done()
            assert running.metric("sightline_server_bytes_in_flight") <= BUDGET
        finally:
            attacking.cancel()
            with suppress(asyncio.CancelledError):
                await attacking

"""Fixtures of the contract tests."""

from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from services.infra.jetstream import connect
from tests.support.servers import NatsServer


@pytest.fixture
async def own_connection(own_nats_server: NatsServer) -> AsyncIterator[Client]:
    """A connection to `own_nats_server`."""
    connection = await connect(own_nats_server.url, "test")
    yield connection
    await connection.close()

"""Opens the records and the queue in the nats-server that the settings name."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.infra.jetstream import ANSWER_SECONDS, connected
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.kit.metered import MeteredQueue, MeteredRecords
from services.kit.settings import Settings
from services.kit.telemetry import Telemetry


@asynccontextmanager
async def open_broker(
    settings: Settings, name: str, telemetry: Telemetry, answer_seconds: float = ANSWER_SECONDS
) -> AsyncGenerator[tuple[MeteredRecords, MeteredQueue]]:
    """Both, metered, over one connection for the block; `name` is the connection's. Raises what `connected` does.

    A call is Unavailable after `answer_seconds`.
    """
    async with connected(settings.nats_url, name, NatsAccess.of(settings), telemetry) as connection:
        ack_wait = timedelta(seconds=settings.ack_wait_seconds)
        records = JetStreamRecords(connection, replicas=settings.nats_replicas, answer_seconds=answer_seconds)
        queue = JetStreamQueue(connection, ack_wait, replicas=settings.nats_replicas, answer_seconds=answer_seconds)
        yield MeteredRecords(records, telemetry), MeteredQueue(queue, telemetry)

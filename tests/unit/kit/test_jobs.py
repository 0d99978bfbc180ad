"""Jobs: announced despite outages, and dropped if they cannot be read."""

import pytest

from services.kit import codec
from services.kit.errors import InvalidName, Unavailable
from services.kit.jobs import Job, announce, handler, publish
from services.kit.memory import MemoryQueue


class SilentQueue(MemoryQueue):
    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        raise Unavailable(what="the queue", problem="a test")


async def test_an_outage_fails_a_publish_but_not_an_announcement(caplog: pytest.LogCaptureFixture) -> None:
    await announce(SilentQueue(), "train", Job("models/m"))
    assert "job_not_announced" in caplog.text
    with pytest.raises(Unavailable):
        await publish(SilentQueue(), "train", Job("models/m"))


@pytest.mark.parametrize("body", [b"nonsense", b'{"name": 3}', b'{"name": "a name"}', codec.encode(Job("models/bad"))])
async def test_an_unreadable_job_is_dropped(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def work(name: str) -> None:
        raise InvalidName(field="name", value=name, expected="another")

    await handler(work)(body)
    assert "job_unreadable" in caplog.text


async def test_a_job_is_handled_by_its_name() -> None:
    names: list[str] = []

    async def work(name: str) -> None:
        names.append(name)

    await handler(work)(codec.encode(Job("models/m", 3)))
    assert names == ["models/m"]

"""The faults of a campaign: each begins, lasts, and is undone. A seed gives the same faults in the same order.

A fault is a function of the site, a source of chance and its duration in seconds. It returns what it hit, for people.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Protocol

from services.infra import jetstream
from services.infra.jetstream_queue import STREAM
from tests.chaos.campaign.broker import SERVERS, Broker
from tests.chaos.campaign.links import Mode, Network

RECORDS = "KV_sightline_records"
LEAST_SECONDS, MOST_SECONDS = 0.2, 4.0  # of a fault
ZOMBIE_SECONDS = 2.0  # beyond a lease, for which a worker is frozen
EVERYTHING = ("all", "*/store")  # what a fault has hit if it was away for every process
SMALL_FILE_BYTES = 2048  # the largest file on a disk that is full


class Processes(Protocol):
    """The services and workers of a suite."""

    lease_seconds: float

    @property
    def names(self) -> Sequence[str]: ...
    def kill(self, name: str) -> None: ...
    def pause(self, name: str) -> None: ...
    def resume(self, name: str) -> None: ...
    def pid(self, name: str) -> int: ...
    def hold_back(self) -> None: ...
    def let_go(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Site:
    """What can be disturbed."""

    broker: Broker
    network: Network
    processes: Processes | None = None
    repeat_jobs: Callable[[Random], str] = lambda _: "no jobs"


Fault = Callable[[Site, Random, float], str]


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a schedule; its own seed decides what it hits."""

    number: int
    after_seconds: float  # the pause before it
    name: str
    seconds: float
    seed: str

    def __str__(self) -> str:
        return f"{self.number:4d}  after {self.after_seconds:4.1f} s  {self.name} for {self.seconds:.1f} s"


def schedule(
    seed: str, names: Sequence[str], pause_seconds: tuple[float, float], pace: float = 1.0
) -> Iterator[Planned]:
    """Faults without end; every name comes once before one comes again. Pauses and faults are shorter by the pace."""
    chance, left = Random(f"{seed}/faults"), list[str]()
    for number in count():
        left = left or chance.sample(names, len(names))
        seconds, pause = chance.uniform(LEAST_SECONDS, MOST_SECONDS), chance.uniform(*pause_seconds)
        yield Planned(number, pause / pace, left.pop(), seconds / pace, f"{seed}/{number}")


def carry_out(planned: Planned, site: Site) -> str:
    """Does it, undoes it, and returns what it hit."""
    return FAULTS[planned.name](site, Random(planned.seed), planned.seconds)


# Of the broker.


def kill_server(site: Site, chance: Random, seconds: float) -> str:
    return _without(site, chance.randrange(SERVERS), seconds)


def kill_leader(site: Site, chance: Random, seconds: float) -> str:
    leader = site.broker.leader(chance.choice((RECORDS, STREAM)))
    return _without(site, chance.randrange(SERVERS) if leader is None else leader, seconds)


def kill_broker(site: Site, chance: Random, seconds: float) -> str:
    for number in chance.sample(range(SERVERS), SERVERS):
        site.broker.kill(number)
    return _restored(site, "all", seconds)


def pause_server(site: Site, chance: Random, seconds: float) -> str:
    number = chance.randrange(SERVERS)
    site.broker.pause(number)
    return _restored(site, f"nats-{number}", seconds)


def pause_broker(site: Site, _: Random, seconds: float) -> str:
    for number in range(SERVERS):
        site.broker.pause(number)
    return _restored(site, "all", seconds)


def pause_kill(site: Site, chance: Random, seconds: float) -> str:
    """Freezes one and kills another; then the third is frozen instead of the first, and the second comes back."""
    first, second, third = chance.sample(range(SERVERS), SERVERS)
    site.broker.pause(first)
    time.sleep(seconds / 3)
    site.broker.kill(second)
    time.sleep(seconds / 3)
    site.broker.pause(third)
    site.broker.resume(first)
    site.broker.start(second)
    return _restored(site, f"paused nats-{first}, killed nats-{second}, paused nats-{third}", seconds / 3)


def damage_server(site: Site, chance: Random, seconds: float) -> str:
    number = chance.randrange(SERVERS)
    site.broker.kill(number)
    done = site.broker.damage(number, chance)
    return _restored(site, f"nats-{number}: {done}", seconds)


def partition_server(site: Site, chance: Random, seconds: float) -> str:
    """Cuts one server off from the other two; its clients still reach it."""
    number, mode = chance.randrange(SERVERS), chance.choice((Mode.CUT, Mode.HANG))
    for pattern in (f"nats-{number}/*", f"nats-*/nats-{number}"):
        site.network.switch(pattern, mode)
    time.sleep(seconds)
    for pattern in (f"nats-{number}/*", f"nats-*/nats-{number}"):
        site.network.switch(pattern, Mode.OPEN)
    return f"nats-{number} by {mode}"


def wipe_jobs(site: Site, _: Random, seconds: float) -> str:
    """Deletes the stream of jobs, twice: the second time while it is being made again."""
    asyncio.run(_wipe(site, consumers=False))
    time.sleep(seconds / 4)
    asyncio.run(_wipe(site, consumers=False))
    return STREAM


def wipe_consumers(site: Site, _: Random, seconds: float) -> str:
    found = asyncio.run(_wipe(site, consumers=True))
    time.sleep(seconds)
    return f"{found} consumers"


def _without(site: Site, number: int, seconds: float) -> str:
    site.broker.kill(number)
    return _restored(site, f"nats-{number}", seconds)


def _restored(site: Site, hit: str, seconds: float) -> str:
    time.sleep(seconds)
    site.broker.restore()
    site.broker.wait()
    return hit


async def _wipe(site: Site, *, consumers: bool) -> int:
    connection = await jetstream.connect(site.broker.url, "campaign")
    js, count = connection.jetstream(), 0
    try:
        if not consumers:
            await js.delete_stream(STREAM)
            return 1
        for found in await js.consumers_info(STREAM):
            count += await js.delete_consumer(STREAM, found.name)
    except (jetstream.nats.errors.Error, OSError):
        pass  # there was none
    finally:
        await connection.close()
    return count


# Of the processes.


def kill_process(site: Site, chance: Random, seconds: float) -> str:
    name = chance.choice(_present(site).names)
    _present(site).kill(name)
    time.sleep(seconds)
    return name


def restart_all(site: Site, _: Random, seconds: float) -> str:
    """Kills every process and server, and starts them all at once."""
    processes = _present(site)
    processes.hold_back()
    for name in processes.names:
        processes.kill(name)
    for number in range(SERVERS):
        site.broker.kill(number)
    time.sleep(seconds / 4)
    processes.let_go()
    return _restored(site, "everything", 0)


def pause_process(site: Site, chance: Random, seconds: float) -> str:
    return _frozen(site, chance.choice(_present(site).names), seconds)


def zombie(site: Site, chance: Random, _: float) -> str:
    """Freezes a worker until its lease is over and a successor has had time to take its work."""
    workers = [name for name in _present(site).names if "worker" in name]
    return _frozen(site, chance.choice(workers), _present(site).lease_seconds + ZOMBIE_SECONDS)


def partition_process(site: Site, chance: Random, seconds: float) -> str:
    name, mode = chance.choice(_present(site).names), chance.choice((Mode.CUT, Mode.HANG))
    site.network.switch(f"{name}/nats-*", mode)
    time.sleep(seconds)
    site.network.switch(f"{name}/nats-*", Mode.OPEN)
    return f"{name} from NATS by {mode}"


def full_disk(site: Site, chance: Random, seconds: float) -> str:
    """A worker cannot write files of more than a few bytes."""
    processes = _present(site)
    name = chance.choice([one for one in processes.names if "worker" in one])
    try:
        pid = processes.pid(name)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, resource.RLIM_INFINITY))
        time.sleep(seconds)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ProcessLookupError:
        return f"{name}, which had ended"
    return name


def repeat_jobs(site: Site, chance: Random, seconds: float) -> str:
    """Delivers jobs again, some of them late."""
    hit = site.repeat_jobs(chance)
    time.sleep(seconds)
    site.repeat_jobs(chance)
    return hit


def _frozen(site: Site, name: str, seconds: float) -> str:
    _present(site).pause(name)
    time.sleep(seconds)
    _present(site).resume(name)
    return name


def _present(site: Site) -> Processes:
    assert site.processes, "a fault of processes in a campaign without any"
    return site.processes


# Of the store.


def _store(mode: Mode) -> Fault:
    def spoil(site: Site, chance: Random, seconds: float) -> str:
        one = chance.random() < 0.5 and site.processes
        pattern = f"{chance.choice(site.processes.names)}/store" if one and site.processes else "*/store"
        site.network.switch(pattern, mode)
        time.sleep(seconds)
        site.network.switch(pattern, Mode.OPEN)
        return pattern

    return spoil


BROKER: Mapping[str, Fault] = {
    "kill-server": kill_server,
    "kill-leader": kill_leader,
    "kill-broker": kill_broker,
    "pause-server": pause_server,
    "pause-broker": pause_broker,
    "pause-kill": pause_kill,
    "partition-server": partition_server,
    "wipe-jobs": wipe_jobs,
    "wipe-consumers": wipe_consumers,
}
DAMAGE: Mapping[str, Fault] = {"damage-server": damage_server}
SUITE: Mapping[str, Fault] = {
    "kill-process": kill_process,
    "restart-all": restart_all,
    "pause-process": pause_process,
    "zombie": zombie,
    "partition-process": partition_process,
    "full-disk": full_disk,
    "repeat-jobs": repeat_jobs,
    **{f"store-{mode}": _store(mode) for mode in Mode if mode is not Mode.OPEN},
}
FAULTS: Mapping[str, Fault] = {**BROKER, **DAMAGE, **SUITE}

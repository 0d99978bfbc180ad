"""What a training child gives up before it imports anything large: network, others' files, memory beyond a limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.kit import confinement, landlock
from services.trainer.engine import fetching


@dataclass(frozen=True, slots=True)
class Confined:
    """What a child gave up, as Ready reports it."""

    network: str = "shared"
    files: str = "all"
    memory_limit_bytes: int = 0


def confine(device: str, network: str, memory_bytes: int, folders: Sequence[str] = ()) -> Confined:
    """Leaves the network, limits the memory and keeps to the folders, as far as the system allows it.

    Of the folders, it may write to the first only. A child that may use a GPU keeps all files, and with `auto` and 0
    network and memory: its driver may need files and processes of its own, and what it maps is not known.
    """
    gpu = device != "cpu" and confinement.has_gpu()
    leaves, keeps = network == "none" or (network == "auto" and not gpu), bool(folders) and not gpu
    if leaves or keeps:
        fetching.install()
    network, files = "shared", "all"
    if leaves:
        network = "none" if confinement.leave_network(loopback=True) else "refused"
    if keeps:
        writable, *readable = folders
        files = "own" if landlock.keep_to(readable, [writable], network=not leaves) else "refused"
    limit = memory_bytes or (0 if gpu else confinement.memory_limit() or confinement.physical_memory())
    return Confined(network, files, limit if limit and confinement.limit_memory(limit) else 0)

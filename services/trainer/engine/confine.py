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

    With `auto` and 0, a child that may use a GPU keeps network and memory: its driver may need processes of other
    rights, and what it maps is not known.
    """
    gpu = _may_use_gpu(device)
    if network == "none" or (network == "auto" and not gpu):
        fetching.install()
        network = "none" if confinement.leave_network(loopback=True) else "refused"
    else:
        network = "shared"
    files = keep_to_folders(device, folders, network=network == "shared")
    limit = memory_bytes or (0 if gpu else confinement.memory_limit() or confinement.physical_memory())
    return Confined(network, files, limit if limit and confinement.limit_memory(limit) else 0)


def keep_to_folders(device: str, folders: Sequence[str], *, network: bool = True) -> str:
    """Keeps to the folders, of which only the first may be written to: `own`, or `refused` where the system cannot.

    `all` without folders, and where the child may use a GPU, whose driver has files of its own.
    """
    if not folders or _may_use_gpu(device):
        return "all"
    writable, *readable = folders
    return "own" if landlock.keep_to(readable, [writable], network=network) else "refused"


def _may_use_gpu(device: str) -> bool:
    return device != "cpu" and confinement.has_gpu()

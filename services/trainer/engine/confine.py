"""What a training child gives up before it imports anything large: the network, and memory beyond a limit."""

from dataclasses import dataclass

from services.kit import confinement
from services.trainer.engine import fetching


@dataclass(frozen=True, slots=True)
class Confined:
    """What a child gave up, as Ready reports it."""

    network: str = "shared"
    memory_limit_bytes: int = 0


def confine(device: str, network: str, memory_bytes: int) -> Confined:
    """Leaves the network and limits the memory, as far as the settings want it and the system allows it.

    With `auto` and 0, a child that may use a GPU does neither: its driver may need processes of other rights, and what
    it maps is not known.
    """
    gpu = device != "cpu" and confinement.has_gpu()
    if network == "none" or (network == "auto" and not gpu):
        fetching.install()
        network = "none" if confinement.leave_network(loopback=True) else "refused"
    else:
        network = "shared"
    limit = memory_bytes or (0 if gpu else confinement.memory_limit() or confinement.physical_memory())
    return Confined(network, limit if limit and confinement.limit_memory(limit) else 0)

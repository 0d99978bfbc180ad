"""One process becomes several, one for each GPU: the training child turns into torchrun, which starts them.

Imports torch only where a GPU may have to be counted.
"""

import os
import sys
from typing import NoReturn

MODULE = "services.trainer.engine"


def is_launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def processes_wanted(device: str, processes: int) -> int:
    """How many processes compute a training: as many as asked for, or with 0 one for each GPU, but at least one.

    Raises ValueError, saying what to set, if a GPU is required for each and there are fewer.
    """
    if processes == 1 or (device == "cpu" and not processes):
        return 1
    if device == "cpu":
        return processes
    import torch  # noqa: PLC0415 - seconds, which a single process need not spend before its Ready

    gpus = torch.cuda.device_count()
    if not processes:
        return max(1, gpus)
    if processes > gpus and (gpus or device == "cuda"):
        found = f"torch finds {gpus}"
        raise ValueError(f"SIGHTLINE_PROCESSES is {processes}, which needs as many GPUs, but {found}. Set it to 0.")
    return processes


def become_torchrun(device: str, processes: int) -> NoReturn:
    """Replaces this process by torchrun, which keeps its pipes and starts `processes` of this module."""
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    for library in ("GLOO", "NCCL"):  # they talk within the machine only, whatever its network allows
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost", "--max-restarts", "0")
    count = ("--nproc-per-node", str(processes))
    command = [sys.executable, "-X", "faulthandler", *launcher, *count, "-m", MODULE, device, str(processes)]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def take_own_gpu() -> None:
    """Leaves only this process's GPU visible, before torch is imported."""
    rank = int(os.environ["LOCAL_RANK"])
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not visible or rank < len(visible):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[rank] if visible else str(rank)

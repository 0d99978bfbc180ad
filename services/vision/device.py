"""The device to compute on: the one in the settings, if torch and the driver can use it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_DRIVER = Path("/sys/module/nvidia/version")


class DeviceUnusable(Exception):
    """A GPU is required and none can be used; the message says what torch and the driver report."""


@dataclass(frozen=True, slots=True)
class Device:
    """The device to compute on; `problem` says why a GPU that exists cannot be used."""

    kind: Literal["cpu", "cuda"]
    name: str
    problem: str = ""


def choose(wanted: str) -> Device:
    """`cuda` is a GPU or raises DeviceUnusable, `cpu` is the CPU, `auto` is a GPU if there is one that can be used."""
    if wanted == "cpu" or (wanted == "auto" and not _driver()):
        return Device("cpu", "cpu")
    import torch  # noqa: PLC0415 - takes seconds and 200 MB, which a machine without a GPU does without

    try:
        torch.ones(8, device="cuda").sum().item()  # torch may find a GPU that it has no kernels for
        return Device("cuda", torch.cuda.get_device_name())
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        problem = _problem(error)
    if wanted == "cuda":
        raise DeviceUnusable(f"SIGHTLINE_DEVICE is cuda, but {problem}. Set it to auto or cpu to compute on the CPU.")
    return Device("cpu", "cpu", problem)


def memory_bytes(kind: str) -> int:
    """Of the GPU; 0 for the CPU."""
    if kind == "cpu":
        return 0
    import torch  # noqa: PLC0415 - as above

    return torch.cuda.get_device_properties(kind).total_memory


def is_of_device(fault: Exception) -> bool:
    """Whether the device or its driver failed, rather than the computation."""
    words = ("CUDA error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "NCCL error")
    import torch  # noqa: PLC0415 - as above

    said = str(fault)
    return isinstance(fault, torch.AcceleratorError) or (
        isinstance(fault, RuntimeError) and any(word in said for word in words)
    )


def _problem(error: Exception) -> str:
    import torch  # noqa: PLC0415 - as above

    said = str(error).strip().splitlines()[0].rstrip(".")
    built = f"torch {torch.__version__}" + (f" for CUDA {torch.version.cuda}" if torch.version.cuda else "")
    driver = f"the NVIDIA driver is {_driver()}" if _driver() else "no NVIDIA driver is loaded"
    return f"{built} cannot use a GPU: {said}; {driver}, and torch finds {torch.cuda.device_count()} devices"


def _driver() -> str:
    """The version of the NVIDIA kernel driver; empty if there is none."""
    try:
        return _DRIVER.read_text().strip()
    except OSError:
        return ""

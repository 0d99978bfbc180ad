"""The device to compute on: what the settings ask for, if torch and the driver can use it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

_DRIVER = Path("/sys/module/nvidia/version")


class DeviceUnusable(Exception):
    """There is no GPU that can compute, and nothing else may; the message says what torch and the driver say."""


@dataclass(frozen=True, slots=True)
class Device:
    """What to compute on; `problem` says why not on the GPU, where there is one that cannot be used."""

    kind: Literal["cpu", "cuda"]
    name: str
    problem: str = ""


def choose(wanted: str) -> Device:
    """`cuda` is a GPU or DeviceUnusable, `cpu` is the CPU whatever there is, `auto` a GPU where one can be used."""
    if wanted == "cpu":
        return Device("cpu", "cpu")
    try:
        torch.ones(8, device="cuda").sum().item()  # a GPU may be found that has no kernels in this torch
        return Device("cuda", torch.cuda.get_device_name())
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        problem = _problem(error)
    if wanted == "cuda":
        raise DeviceUnusable(f"SIGHTLINE_DEVICE is cuda, but {problem}. Set it to auto or cpu to compute on the CPU.")
    return Device("cpu", "cpu", problem if _driver() else "")


def _problem(error: Exception) -> str:
    said = str(error).strip().splitlines()[0].rstrip(".")
    built = f"torch {torch.__version__}" + (f" for CUDA {torch.version.cuda}" if torch.version.cuda else "")
    driver = f"NVIDIA's driver is {_driver()}" if _driver() else "no driver of NVIDIA is loaded"
    return f"{built} cannot use a GPU: {said}; {driver}, and torch finds {torch.cuda.device_count()} devices"


def _driver() -> str:
    """The version of NVIDIA's kernel driver; empty if there is none."""
    try:
        return _DRIVER.read_text().strip()
    except OSError:
        return ""

"""The trainer's settings, each from `SIGHTLINE_<FIELD>`."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from services.kit.settings import Address, Port, Settings


class TrainerSettings(Settings):
    """Of the api and of the workers."""

    port: Port = 50052
    dataset_address: Address = "127.0.0.1:50051"
    lease_seconds: float = Field(default=15.0, gt=0)  # after which the work of a silent worker is somebody else's
    heartbeat_seconds: float = Field(default=2.0, gt=0)
    checkpoint_seconds: float = Field(default=5.0, ge=0)  # between two checkpoints: a death costs as much work, at most
    # Of the workers only.
    weights_dir: Path | None = None  # pretrained weights as safetensors, for machines without a network
    download_weights: bool = True  # from torchvision's site, where neither that folder nor the store has them
    work_dir: Path | None = None  # snapshots and features are cached here; a temporary folder by default
    once_seconds: float = Field(default=30.0, ge=0)  # that a worker with --once waits for work before it ends
    device: Literal["auto", "cpu", "cuda"] = "auto"  # cuda: a worker without a usable GPU ends at once
    # Seconds of the reference device that one second of this worker's device is charged as.
    device_factor: float = Field(default=1.0, gt=0)
    threads: int = Field(default=max(1, os.cpu_count() or 1), gt=0)  # of the training child

    @property
    def lease(self) -> timedelta:
        """For how long a heartbeat holds the lease."""
        return timedelta(seconds=self.lease_seconds)

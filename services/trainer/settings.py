"""The trainer's settings, each from `SIGHTLINE_<FIELD>`."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from services.kit.settings import Address, Port, Settings
from services.vision.signatures import SignatureRule

GRAPHS = Path(sys.prefix) / "share" / "sightline" / "graphs"  # of `make setup`


class TrainerSettings(Settings):
    """Settings of the api and the workers."""

    port: Port = 50052
    dataset_address: Address = "127.0.0.1:50051"
    lease_seconds: float = Field(default=15.0, gt=0)  # after which another worker takes over from a silent one
    heartbeat_seconds: float = Field(default=2.0, gt=0)
    checkpoint_seconds: float = Field(default=5.0, ge=0)  # minimum time between two checkpoints
    # Only of workers.
    signing_key: SecretStr = SecretStr("")  # signs bundles: an Ed25519 key in PEM
    bundle_key: Path | None = None  # public keys, in PEM, of which one must have signed a bundle that is used
    bundle_signatures: SignatureRule = SignatureRule.REQUIRE  # or `accept` unsigned ones, or `off`
    weights_dir: Path | None = None  # pretrained weights as safetensors, for machines without internet access
    installed_weights: bool = True  # those in installed packages (the extra `weights`), after folder and store
    download_weights: bool = True  # if none of these has them
    work_dir: Path | None = None  # caches snapshots and features; by default a temporary folder
    graphs_directory: Path | None = None  # of traced networks; by default in the Python environment
    once_seconds: float = Field(default=30.0, ge=0)  # how long a worker with --once waits for work before it exits
    device: Literal["auto", "cpu", "cuda"] = "auto"  # cuda: a worker without a usable GPU exits at once
    # How many seconds on the reference device one second on this worker's device is charged as.
    device_factor: float = Field(default=1.0, gt=0)
    processes: int = Field(default=0, ge=0)  # that compute one training together; 0: one for each GPU
    # Of the training child: `none` has it leave the network, `auto` only where there is no GPU.
    child_network: Literal["auto", "none", "shared"] = "auto"
    child_files: Literal["auto", "all"] = "auto"  # auto: its own only, unless there is a GPU
    child_memory_bytes: int = Field(default=0, ge=0)  # that it may allocate; 0: what there is, without a GPU
    hang_seconds: float = Field(default=300.0, gt=0)  # without progress, after which a training child is ended
    threads: int = Field(default=max(1, os.cpu_count() or 1), gt=0)  # of the training child

    @property
    def graphs(self) -> Path:
        """The folder of traced networks."""
        return self.graphs_directory or GRAPHS

    @property
    def lease(self) -> timedelta:
        """How long a heartbeat keeps the lease."""
        return timedelta(seconds=self.lease_seconds)

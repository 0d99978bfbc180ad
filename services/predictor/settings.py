"""The predictor's settings."""

import os
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from services.kit import names, settings
from services.kit.errors import InvalidName
from services.kit.reach import Reach
from services.predictor.batching import Passes
from services.predictor.feedback import Rules
from services.vision.decode_limits import DecodeLimits
from services.vision.signatures import SignatureRule


class PredictorSettings(settings.Settings):
    """Limits and the trainer's address; each field is read from `SIGHTLINE_<FIELD>`."""

    port: settings.Port = 50053
    max_calls: int = Field(default=256, ge=1)  # at once; each may hold an image before it is admitted or refused
    max_bytes_in_flight: int = Field(default=512 * 1024**2, ge=1024**2)
    trainer_address: settings.Address = "127.0.0.1:50052"  # host:port of the trainer api
    bundle_key: Path | None = None  # public keys, in PEM, of which one must have signed every bundle
    bundle_signatures: SignatureRule = SignatureRule.REQUIRE  # or `accept` unsigned ones, or `off`
    device: Literal["auto", "cpu", "cuda"] = "auto"  # cuda: exit at startup without a usable GPU
    cpu_engine: Literal["onnxruntime", "openvino"] = "onnxruntime"  # for bundles with graphs
    model_cache_bytes: int = Field(default=4 * 1024**3, gt=0)  # of weights in memory
    model_cache_directory: Path | None = None  # for bundles' files; none: a temporary folder
    preload_models: str = ""  # loaded before the replica is ready, and kept: `models/a,projects/acme/models/b`
    model_fresh_seconds: float = Field(default=1.0, ge=0)  # how long the trainer's answer about a model is used
    model_rest_seconds: float = Field(default=300.0, ge=0)  # unused, after which a model frees its memory; 0: never
    model_sweep_seconds: float = Field(default=15.0, gt=0)  # between checks for deleted models
    max_prediction_image_bytes: int = Field(default=6 * 1024**2, gt=0)  # per unary prediction
    max_requests: int = Field(default=128, gt=0)  # in flight at once; each may have an image in memory
    max_streamed_images: int = Field(default=32, gt=0)  # of all AnalyzeImages streams, at once; further ones wait
    max_explanations: int = Field(default=2, gt=0)  # at once; each is some fifty predictions
    max_batch: int = Field(default=16, gt=0)  # images per forward pass
    max_batch_pixels: int = Field(default=100_000, gt=0)  # of several images in one pass on a CPU
    max_prediction_pixels: int = Field(default=64_000_000, gt=0)  # per image, as stored
    decode_threads: int = Field(default=2, gt=0)  # images of one caller at once, each in a process; 2 x this of all
    decode_bytes: int = Field(default=1024**3, gt=0)  # estimated memory of large images that are decoded at once
    decode_cpu_seconds: float = Field(default=10.0, gt=0)  # per image
    decode_seconds: float = Field(default=60.0, gt=0)  # per image
    max_image_scans: int = Field(default=100, gt=0)  # of a progressive JPEG
    feedback_below: float = Field(default=0.0, ge=0, le=1)  # images with less confidence are kept; 0: none
    feedback_share: float = Field(default=1.0, gt=0, le=1)  # of these
    feedback_images: int = Field(default=1000, gt=0)  # kept of a project on a day, by each replica
    feedback_bytes: int = Field(default=1024**3, gt=0)  # likewise
    feedback_days: float = Field(default=30.0, gt=0)  # until a kept image is removed
    forward_passes: int = Field(default_factory=lambda: os.cpu_count() or 1, gt=0)  # at once on a CPU; on a GPU, one
    forward_threads: int = Field(default=1, gt=0)  # per forward pass; more cost more than they gain
    # Batch predictions.
    batch_predictions: bool = True  # false: a replica that does without NATS, and refuses them
    dataset_address: settings.Address = "127.0.0.1:50051"  # host:port of the dataset api
    open_output_prefixes: str = ""  # where callers may have results written, as in SIGHTLINE_OPEN_PREFIXES
    max_batch_images: int = Field(default=500_000, gt=0)  # of one batch prediction
    max_batch_image_bytes: int = Field(default=20 << 20, gt=0)
    batch_chunk_images: int = Field(default=250, gt=0, le=100_000)  # per job
    batch_images_in_flight: int = Field(default=8, gt=0)  # per worker; each takes at most max_batch_image_bytes
    batch_heartbeat_seconds: float = Field(default=2.0, gt=0)  # between progress reports, and checks whether to stop
    batch_lease_seconds: float = Field(default=20.0, gt=0)
    batch_stall_seconds: float = Field(default=20.0, gt=0)  # without progress, before work is published again
    batch_reconcile_seconds: float = Field(default=5.0, gt=0)
    batch_idle_seconds: float = Field(default=60.0, ge=0)  # without work, after which a worker drops its models
    batch_days: float = Field(default=0.0, ge=0)  # after its end, until a batch prediction is deleted; 0: never
    # How many seconds on the reference device one second on this worker's device is charged as.
    device_factor: float = Field(default=1.0, gt=0)

    @field_validator("open_output_prefixes")
    @classmethod
    def _of_outputs(cls, value: str) -> str:
        Reach.parse(value)
        return value

    @field_validator("preload_models")
    @classmethod
    def _of_names(cls, value: str) -> str:
        for name in value.split(",") if value else ():
            try:
                names.check_model(name, "SIGHTLINE_PRELOAD_MODELS")
            except InvalidName as error:
                raise ValueError(error.message) from error
        return value

    @property
    def preloaded(self) -> tuple[str, ...]:
        """The names of the models to load at the start."""
        return tuple(self.preload_models.split(",")) if self.preload_models else ()

    @property
    def feedback(self) -> Rules:
        """Which images are kept."""
        return Rules(self.feedback_below, self.feedback_share, self.feedback_images, self.feedback_bytes)

    @property
    def outputs(self) -> Reach:
        """Where callers may have results written."""
        return Reach.parse(self.open_output_prefixes)

    @property
    def batch_lease(self) -> timedelta:
        """How long an unresponsive worker keeps a batch prediction."""
        return timedelta(seconds=self.batch_lease_seconds)

    @property
    def batches_kept(self) -> timedelta | None:
        """How long batch predictions are kept after their end; None: until somebody deletes them."""
        return timedelta(days=self.batch_days) if self.batch_days else None

    @property
    def request_bytes(self) -> dict[str, int]:
        """The largest requests of the rpcs that take an image."""
        largest = self.max_prediction_image_bytes + (64 << 10)
        return dict.fromkeys(
            ("AnalyzeImage", "AnalyzeImages", "ExplainImage", "ModelInfer", "ModelStreamInfer"), largest
        )

    def passes(self, device: Literal["cpu", "cuda"]) -> Passes:
        """What forward passes there are on a device: a GPU takes one, which may be large."""
        if device == "cuda":
            return Passes(1, self.max_batch)
        return Passes(self.forward_passes, self.max_batch, self.max_batch_pixels)

    @property
    def decode_limits(self) -> DecodeLimits:
        """What decoding may take."""
        return DecodeLimits(
            self.decode_threads,
            self.decode_bytes,
            self.decode_cpu_seconds,
            self.decode_seconds,
            self.max_image_scans,
            self.max_prediction_pixels,
            "SIGHTLINE_MAX_PREDICTION_PIXELS",
        )


def refuse_missing_engine(settings: PredictorSettings) -> None:
    """SystemExit if the engine for CPUs is not installed."""
    engine = settings.cpu_engine
    if not find_spec(engine):
        fix = f"pip install 'sightline-services[{engine}]'"
        raise SystemExit(f"SIGHTLINE_CPU_ENGINE is {engine}, which is not installed: {fix}")

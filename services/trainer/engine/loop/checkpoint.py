"""The complete state of a fine-tuning at one step, and its checkpoint: safetensors and JSON, never a pickle.

A checkpoint restores the plan, the step and the tensors, and all randomness follows from (seed, step): on a CPU a
resumed training ends with the same weights, bit for bit, as one that was never interrupted.
"""

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.loop.task import Outputs
from services.trainer.recipe import Recipe

WARM_UP = 0.1  # share of the steps


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule, fixed when training starts."""

    total_steps: int
    steps_per_epoch: int
    validate_every: int  # epochs
    numerics: Numerics = Numerics()

    def rate(self, step: int) -> float:
        """The learning rate at a step as a share of its peak: linear warm-up, then half a cosine down to 0."""
        warm = max(1, round(WARM_UP * self.total_steps))
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.total_steps - warm)))


class Position(msgspec.Struct, kw_only=True):
    """Where the training is: all of its state but the tensors."""

    step: int = 0
    rate_factor: float = 1.0  # halved each time the loss stops being finite
    retries: int = 0
    best_loss: float | None = None  # of validation, as the task measures it; None before the first
    candidate_step: int = -1  # at which the candidate was measured
    stale_epochs: int = 0  # validations since the best


class _Meta(msgspec.Struct, frozen=True, kw_only=True):
    recipe: Recipe
    plan: Plan
    position: Position
    unreadable: dict[int, str]  # images that were left out, by index


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights that could ship, and their outputs for images on which they were not trained."""

    weights: dict[str, Tensor]
    selection: Outputs  # of the first fold
    held_out: Outputs | None = None  # None until needed


@dataclass(slots=True)
class State:
    """The live training: `average` is the network that ships, `candidate` its best validated weights, if any."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW
    position: Position
    candidate: Candidate | None = None
    _pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])  # (average's, network's)

    def pack(self) -> dict[str, Tensor]:
        """Copies of all tensors, by unique names."""
        packed = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        packed.update({f"average.{k}": v for k, v in self.average.state_dict().items()})
        if self.candidate is not None:
            packed.update({f"candidate.weights.{k}": v for k, v in self.candidate.weights.items()})
            for what, outputs in (("selection", self.candidate.selection), ("held_out", self.candidate.held_out)):
                packed.update({f"candidate.{what}.{k}": torch.from_numpy(v) for k, v in (outputs or {}).items()})
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                packed[f"optimizer.{key}.{name}"] = value
        return {name: tensor.detach().clone().contiguous() for name, tensor in packed.items()}

    def unpack(self, packed: dict[str, Tensor]) -> None:
        """Inverse of `pack`; raises RuntimeError for tensors of another network."""
        self.network.load_state_dict(_part(packed, "network."))
        self.average.load_state_dict(_part(packed, "average."))
        self.candidate = _candidate(packed)
        self.optimizer.state.clear()
        for name, parameter in self.network.named_parameters():
            kept = {
                key: packed[f"optimizer.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in packed
            }
            if kept:
                self.optimizer.state[parameter] = {
                    key: value.clone().to(parameter.device, memory_format=torch.preserve_format)
                    if key == "step"
                    else _like(value, parameter)
                    for key, value in kept.items()
                }

    @torch.no_grad()
    def average_in(self, decay: float) -> None:
        """Moves the average towards the network; faster at first, so that it forgets the initial weights."""
        if not self._pairs:
            average, network = self.average.state_dict(), self.network.state_dict()
            self._pairs = list(zip(average.values(), network.values(), strict=True))
        decay = min(decay, (1 + self.position.step) / (10 + self.position.step))
        moving = [pair for pair in self._pairs if pair[0].is_floating_point() and decay > 0]
        if moving:
            get_ema_multi_avg_fn(decay)([kept for kept, _ in moving], [new for _, new in moving], self.position.step)
        for kept, new in self._pairs:
            if not (kept.is_floating_point() and decay > 0):
                kept.copy_(new)


def save(
    root: Path, packed: dict[str, Tensor], position: Position, plan: Plan, recipe: Recipe, unreadable: dict[int, str]
) -> Path:
    """Writes the checkpoint folder of the position's step, atomically; `packed` is from `State.pack`."""
    path = _folder(root, position.step)
    scratch = root / f".{path.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    safetensors.torch.save_file(packed, scratch / "state.safetensors")
    meta = _Meta(recipe=recipe, plan=plan, position=position, unreadable=unreadable)
    (scratch / "state.json").write_bytes(msgspec.json.encode(meta))
    shutil.rmtree(path, ignore_errors=True)
    scratch.rename(path)
    return path


def forget(root: Path, step: int) -> None:
    """Deletes the checkpoints of this step and earlier ones."""
    for path in root.glob("step-*"):
        if path <= _folder(root, step):
            shutil.rmtree(path, ignore_errors=True)


def unreadable(path: Path) -> dict[int, str]:
    """The images that the checkpoint's training left out."""
    return _meta(path).unreadable


def numerics(path: Path) -> Numerics:
    """Those that the checkpoint's training computes in."""
    return _meta(path).plan.numerics


def usable(path: Path, recipe: Recipe) -> bool:
    """Whether the checkpoint is complete and of this recipe."""
    try:
        with safetensors.safe_open(path / "state.safetensors", "pt"):  # checks header and length
            return _meta(path).recipe == recipe
    except (OSError, ValueError, safetensors.SafetensorError):
        return False


def restore(path: Path, state: State) -> Plan:
    """Restores the state from a usable checkpoint; returns its plan."""
    meta = _meta(path)
    state.unpack(safetensors.torch.load_file(path / "state.safetensors"))
    state.position = meta.position
    return meta.plan


def _folder(root: Path, step: int) -> Path:
    return root / f"step-{step:09d}"  # names sort by step


def _meta(path: Path) -> _Meta:
    return msgspec.json.decode((path / "state.json").read_bytes(), type=_Meta)


def _candidate(packed: dict[str, Tensor]) -> Candidate | None:
    weights = _part(packed, "candidate.weights.")
    if not weights:
        return None
    selection, held_out = (
        {name: tensor.numpy() for name, tensor in _part(packed, f"candidate.{what}.").items()}
        for what in ("selection", "held_out")
    )
    return Candidate(weights, selection, held_out or None)


def _part(packed: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in packed.items() if name.startswith(prefix)}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value in the parameter's memory layout, as the optimizer creates it."""
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value).detach()

"""Everything a fine-tuning is at one step, and its checkpoint: safetensors and JSON, never a pickle.

Resuming is by law: the same plan, the same step, the same tensors; all randomness follows from (seed, step), so on a
CPU a resumed training ends with the weights of one that was never interrupted, bit for bit.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from services.trainer.engine.linear import Floats
from services.trainer.protocol import Recipe
from services.vision.backbones import Network

WARM_UP = 0.1  # share of the steps


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule, fixed when training starts."""

    total_steps: int
    steps_per_epoch: int
    validate_every: int  # epochs

    def rate(self, step: int) -> float:
        """The share of the peak rate at a step: linear warm-up, then half a cosine down to 0."""
        warm = max(1, round(WARM_UP * self.total_steps))
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.total_steps - warm)))


class Position(msgspec.Struct, kw_only=True):
    """Where it is, and what it remembers beside tensors."""

    step: int = 0
    rate_factor: float = 1.0  # halved each time the loss stops being finite
    retries: int = 0
    best_loss: float | None = None  # of validation
    candidate_step: int = -1  # after which the candidate was measured
    stale_epochs: int = 0  # validations since the best


class _Meta(msgspec.Struct, frozen=True, kw_only=True):
    recipe: Recipe
    plan: Plan
    position: Position
    unreadable: dict[int, str]  # images that were left out


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights that could ship, and the logits that they give for images on which they were not trained."""

    weights: dict[str, Tensor]
    logits: Floats  # [first fold, categories]
    held_out: Floats | None = None  # [held out, categories]; None until it is asked for


@dataclass(slots=True)
class State:
    """The live training: `average` is the network that ships, `candidate` its best validated state, if any."""

    network: Network
    average: Network
    optimizer: torch.optim.AdamW
    position: Position
    candidate: Candidate | None = None

    def pack(self) -> dict[str, Tensor]:
        """Copies of all tensors, by unique names."""
        packed = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        packed.update({f"average.{k}": v for k, v in self.average.state_dict().items()})
        if self.candidate is not None:
            packed.update({f"candidate.weights.{k}": v for k, v in self.candidate.weights.items()})
            packed["candidate.logits"] = torch.from_numpy(self.candidate.logits)
            if self.candidate.held_out is not None:
                packed["candidate.held_out"] = torch.from_numpy(self.candidate.held_out)
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                packed[f"optimizer.{key}.{name}"] = value
        return {name: tensor.detach().clone().contiguous() for name, tensor in packed.items()}

    def unpack(self, packed: dict[str, Tensor]) -> None:
        """Inverse of `pack`; RuntimeError for tensors of another network."""
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
        """Moves the average towards the network; faster at first, so that the start is forgotten."""
        decay = min(decay, (1 + self.position.step) / (10 + self.position.step))
        for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if kept.is_floating_point() and decay > 0:
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def save(root: Path, state: State, plan: Plan, recipe: Recipe, unreadable: dict[int, str]) -> Path:
    """Writes a checkpoint folder, whole or not at all; keeps it and the one before."""
    path = root / f"step-{state.position.step:09d}"
    scratch = root / f".{path.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    safetensors.torch.save_file(state.pack(), scratch / "state.safetensors")
    meta = _Meta(recipe=recipe, plan=plan, position=state.position, unreadable=unreadable)
    (scratch / "state.json").write_bytes(msgspec.json.encode(meta))
    shutil.rmtree(path, ignore_errors=True)
    scratch.rename(path)
    for old in sorted(root.glob("step-*"))[:-2]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def unreadable(path: Path) -> dict[int, str]:
    """The images that the checkpoint's training left out."""
    return _meta(path).unreadable


def usable(path: Path, recipe: Recipe) -> bool:
    """Whether it is whole, and of this recipe."""
    try:
        with safetensors.safe_open(path / "state.safetensors", "pt"):  # checks header and length
            return _meta(path).recipe == recipe
    except (OSError, ValueError, safetensors.SafetensorError):
        return False


def restore(path: Path, state: State) -> Plan:
    """Puts a usable checkpoint into the state and returns its plan."""
    meta = _meta(path)
    state.unpack(safetensors.torch.load_file(path / "state.safetensors"))
    state.position = meta.position
    return meta.plan


def _meta(path: Path) -> _Meta:
    return msgspec.json.decode((path / "state.json").read_bytes(), type=_Meta)


def _candidate(packed: dict[str, Tensor]) -> Candidate | None:
    if "candidate.logits" not in packed:
        return None
    held_out = packed.get("candidate.held_out")
    return Candidate(
        weights=_part(packed, "candidate.weights."),
        logits=packed["candidate.logits"].numpy(),
        held_out=None if held_out is None else held_out.numpy(),
    )


def _part(packed: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in packed.items() if name.startswith(prefix)}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value in the parameter's own memory layout, as the optimizer made it."""
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value).detach()

"""In which precision and memory layout a training computes: on a GPU, whatever is measured to be fastest there."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec
import torch
from torch import Tensor

_BFLOAT16_CPU_FEATURES = ("avx512_bf16", "amx_bf16")  # without either, bfloat16 is slower than float32
GAIN = 0.97  # a choice further from float32 must take less than this share of the time


class Numerics(msgspec.Struct, frozen=True, kw_only=True):
    """Weights, gradients and loss are float32 in any case; a checkpoint keeps the choice."""

    bfloat16: bool = False  # activations
    channels_last: bool = True

    def autocast(self, device: str) -> AbstractContextManager[object]:
        """In which the forward pass runs."""
        return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.bfloat16)

    def arranged(self, inputs: Tensor, device: str) -> Tensor:
        """The inputs on the device, in the layout, which the network's activations follow."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return inputs.to(device, memory_format=layout)

    def __str__(self) -> str:
        """As logs and metrics name it."""
        return f"{'bfloat16' if self.bfloat16 else 'float32'}{'-channels-last' if self.channels_last else ''}"


def candidates(device: str, usual: Numerics) -> tuple[Numerics, ...]:
    """What to measure, the most exact first. On a CPU only the usual one: its trainings are reproducible."""
    if device == "cpu":
        return (usual,)
    precisions = (False, True) if bfloat16_pays(device) else (False,)
    return tuple(Numerics(bfloat16=one, channels_last=last) for one in precisions for last in (True, False))


def fastest(choices: Sequence[Numerics], measure: Callable[[Numerics], float]) -> Numerics:
    """The choice whose steps take the fewest seconds; a later one only if it is clearly faster."""
    if len(choices) == 1:
        return choices[0]
    best, least = choices[0], float("inf")
    for choice in choices:
        seconds = measure(choice)
        if seconds < (GAIN * least if least < float("inf") else least):
            best, least = choice, seconds
    return best


def bfloat16_pays(device: str) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device == "cpu":
        features = torch.cpu.get_capabilities()
        return any(features.get(name, False) for name in _BFLOAT16_CPU_FEATURES)
    return torch.cuda.is_bf16_supported(including_emulation=False)

"""Where a training step may compute in bfloat16: weights, gradients and loss stay in float32."""

import torch

_CPU_FEATURES = ("avx512_bf16", "amx_bf16")  # without either it is slower than float32


def bfloat16_pays(device: str) -> bool:
    """Whether the device has instructions for it."""
    if device == "cpu":
        features = torch.cpu.get_capabilities()
        return any(features.get(name, False) for name in _CPU_FEATURES)
    return torch.cuda.is_bf16_supported(including_emulation=False)

"""A convolution and the batch normalisation after it as one convolution, which saves passes over the pixels."""

import torch
from torch import Tensor, nn


def folded_weights(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias that do what a convolution without a bias and a frozen normalisation do.

    Gradients reach the parameters of both.
    """
    assert norm.running_mean is not None, "it is frozen"
    assert norm.running_var is not None, "it is frozen"
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale

"""CSPDarknet and its path-aggregating pyramid, as in YOLOX (Ge et al. 2021), with the published names."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.vision.folding import folded_weights

Levels = tuple[Tensor, Tensor, Tensor]  # strides 8, 16 and 32


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, SiLU.

    With frozen statistics (evaluation mode), the normalisation is folded into the convolution: the same function and
    gradients, without extra passes over the pixels.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.bn
        if norm.training:
            return functional.silu(norm(conv(x)), inplace=True)
        return functional.silu(self._convolved(x, *folded_weights(conv, norm)), inplace=True)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        conv = self.conv
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and conv.groups > 1 and conv.stride != (1, 1):
            # On a CPU, the gradient of a strided depthwise convolution is several times slower in bfloat16.
            with torch.autocast("cpu", enabled=False):
                return functional.conv2d(x.float(), weight, bias, conv.stride, conv.padding, groups=conv.groups).to(
                    x.dtype
                )
        return functional.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class DepthwiseUnit(nn.Module):
    """A depthwise convolution, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvUnit(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvUnit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool) -> nn.Module:
    """A convolution with a kernel above 1×1, depthwise if the network is."""
    kind = DepthwiseUnit if depthwise else ConvUnit
    return kind(inputs, outputs, kernel, stride)


class Bottleneck(nn.Module):
    """1×1 then 3×3 at the same width, added to the input with `shortcut`."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = unit(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.shortcut else out


class CspLayer(nn.Module):
    """Half of the channels go through `count` bottlenecks, half bypass them; a 1×1 convolution joins them."""

    def __init__(self, inputs: int, outputs: int, count: int, *, shortcut: bool = True, depthwise: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvUnit(inputs, hidden, 1)
        self.conv2 = ConvUnit(inputs, hidden, 1)
        self.conv3 = ConvUnit(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))


class Focus(nn.Module):
    """Moves each 2×2 block of pixels into channels, then convolves."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(torch.cat([row[..., column::2] for column in (0, 1) for row in rows], dim=1))


class SpatialPyramid(nn.Module):
    """The features with their maxima over windows of 5, 9 and 13 pixels.

    A maximum over 9 is one over 5 of maxima over 5, and so on: the same as three separate windows, and cheaper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels // 2, 1)
        self.conv2 = ConvUnit(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.conv1(x)]
        for _ in range(3):
            levels.append(functional.max_pool2d(levels[-1], 5, stride=1, padding=2))
        return self.conv2(torch.cat(levels, dim=1))


class CspDarknet(nn.Module):
    """The backbone: features of strides 8, 16, 32 with 4, 8 and 16 times `width` channels."""

    def __init__(self, width: int, depth: int, *, depthwise: bool) -> None:
        super().__init__()

        def stage(inputs: int, count: int) -> list[nn.Module]:
            outputs = 2 * inputs
            return [
                unit(inputs, outputs, 3, 2, depthwise=depthwise),
                CspLayer(outputs, outputs, count, depthwise=depthwise),
            ]

        self.stem = Focus(3, width)
        self.dark2 = nn.Sequential(*stage(width, depth))
        self.dark3 = nn.Sequential(*stage(2 * width, 3 * depth))
        self.dark4 = nn.Sequential(*stage(4 * width, 3 * depth))
        self.dark5 = nn.Sequential(
            unit(8 * width, 16 * width, 3, 2, depthwise=depthwise),
            SpatialPyramid(16 * width),
            CspLayer(16 * width, 16 * width, depth, shortcut=False, depthwise=depthwise),
        )

    def forward(self, x: Tensor) -> Levels:
        fine = self.dark3(self.dark2(self.stem(x)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class Pyramid(nn.Module):
    """The neck, with the backbone inside it as in the published names: top-down, then bottom-up."""

    def __init__(self, width: int, depth: int, *, depthwise: bool) -> None:
        super().__init__()
        fine, middle, coarse = 4 * width, 8 * width, 16 * width

        def joined(inputs: int, outputs: int) -> CspLayer:
            return CspLayer(inputs, outputs, depth, shortcut=False, depthwise=depthwise)

        self.backbone = CspDarknet(width, depth, depthwise=depthwise)
        self.lateral_conv0 = ConvUnit(coarse, middle, 1)
        self.C3_p4 = joined(2 * middle, middle)
        self.reduce_conv1 = ConvUnit(middle, fine, 1)
        self.C3_p3 = joined(2 * fine, fine)
        self.bu_conv2 = unit(fine, fine, 3, 2, depthwise=depthwise)
        self.C3_n3 = joined(2 * fine, middle)
        self.bu_conv1 = unit(middle, middle, 3, 2, depthwise=depthwise)
        self.C3_n4 = joined(2 * middle, coarse)

    def forward(self, x: Tensor) -> Levels:
        fine, middle, coarse = self.backbone(x)
        reduced_coarse = self.lateral_conv0(coarse)
        reduced_middle = self.reduce_conv1(self.C3_p4(torch.cat((_doubled(reduced_coarse), middle), dim=1)))
        out_fine = self.C3_p3(torch.cat((_doubled(reduced_middle), fine), dim=1))
        out_middle = self.C3_n3(torch.cat((self.bu_conv2(out_fine), reduced_middle), dim=1))
        out_coarse = self.C3_n4(torch.cat((self.bu_conv1(out_middle), reduced_coarse), dim=1))
        return out_fine, out_middle, out_coarse

    def own_layers(self) -> nn.ModuleList:
        """The neck without the backbone."""
        return nn.ModuleList(child for name, child in self.named_children() if name != "backbone")


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")

"""CSPDarknet and the path-aggregating pyramid over it, as YOLOX (Ge et al. 2021) has them, with the published names."""

import torch
from torch import Tensor, nn
from torch.nn import functional

Levels = tuple[Tensor, Tensor, Tensor]  # strides 8, 16 and 32


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, SiLU.

    Where the normalisation's statistics stand still (evaluation mode), it is multiplied into the convolution: the
    same function with the same gradients, without its passes over the pixels.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.bn
        if norm.training:
            return functional.silu(norm(conv(x)), inplace=True)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        return functional.silu(self._convolved(x, weight, bias), inplace=True)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        conv = self.conv
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and conv.groups > 1 and conv.stride != (1, 1):
            # The gradient of a strided depthwise convolution takes a CPU several times as long in bfloat16.
            with torch.autocast("cpu", enabled=False):
                return functional.conv2d(x.float(), weight, bias, conv.stride, conv.padding, groups=conv.groups).to(
                    x.dtype
                )
        return functional.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class DepthwiseUnit(nn.Module):
    """A convolution of each channel alone, then one of single pixels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvUnit(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvUnit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool) -> nn.Module:
    """A convolution of more than one pixel, of the network's kind."""
    kind = DepthwiseUnit if depthwise else ConvUnit
    return kind(inputs, outputs, kernel, stride)


class Bottleneck(nn.Module):
    """1×1 then 3×3 at the same width, added to the input where `shortcut` says so."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = unit(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.shortcut else out


class CspLayer(nn.Module):
    """Half of the channels pass `count` bottlenecks, half pass by; a 1×1 convolution joins them."""

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
    """Every second pixel of every second row to channels (four pictures of half the side), then a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(torch.cat([row[..., column::2] for column in (0, 1) for row in rows], dim=1))


class SpatialPyramid(nn.Module):
    """The maxima over windows of 5, 9 and 13 pixels beside the features themselves.

    A window of 9 is one of 5 over maxima of 5, and so on: equal to three separate windows, and cheaper.
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
    """The neck, which has the backbone inside as the published names do: context downwards, then detail upwards."""

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

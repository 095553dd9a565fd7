"""Convolutions of every kind, and what moves channels to pixels and back."""

import torch
import torchvision
from case import A_MAP, IMAGES, WHOLE_MAP, Between, Case, halves, maps
from torch import nn
from torch.nn import functional as F


def signals():
    return Between(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.Conv1d(6, 2, 1))


def volumes():
    return Between(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 6, 3), nn.Conv3d(6, 2, 1))


def strided_and_dilated():
    net = maps(nn.ReLU())
    net.a, net.b = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 6, 3, dilation=2, padding="same")
    return net


def circular():
    net = maps(nn.ReLU())
    net.b = nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")
    return net


def windows(x):
    return x.unfold(2, 3, 1).unfold(3, 2, 2).amax((4, 5))


class Functional(nn.Module):
    """Weights as bare parameters, given to F.conv2d."""

    def __init__(self):
        super().__init__()
        self.v, self.w = nn.Parameter(torch.zeros(8, 3, 3, 3)), nn.Parameter(torch.zeros(6, 8, 1, 1))
        self.shift = nn.Parameter(torch.zeros(8))
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(F.conv2d(F.conv2d(x, self.v, self.shift, padding=1).relu(), self.w).tanh())


class BlurPool(nn.Module):
    """A fixed kernel, repeated for as many channels as the input has."""

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "kernel", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).view(1, 1, 3, 3) / 16
        )

    def forward(self, x):
        return F.conv2d(x, self.kernel.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1])


class StandardisedConv(nn.Conv2d):
    """Weights of mean 0 and variance 1 for each output channel, as in BiT's ResNets."""

    def forward(self, x):
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias)


def standardised_over_kept(net, kept):
    """The statistics are those of the kept part of the weight."""
    b, ins = net.b, kept["b.weight"][1]

    def forward(x):
        weight = b.weight[kept["b.weight"][0]][:, ins]
        mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        y = F.conv2d(x[:, ins], (weight - mean) / (std + 1e-5), b.bias[kept["b.weight"][0]])
        return y.new_zeros(y.shape[0], 6, *y.shape[2:]).index_copy(1, kept["b.weight"][0], y)

    b.forward = forward


def standardised():
    net = maps(nn.ReLU())
    net.b = StandardisedConv(8, 6, 1)
    return net


class Deformable(nn.Module):
    """Offsets from one convolution, weights of another, torchvision's operator."""

    def __init__(self, groups=1):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 2 * 9, 3, padding=1)
        self.b = torchvision.ops.DeformConv2d(8, 6, 3, padding=1, groups=groups)
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x).relu()
        return self.c(self.b(x, self.offset(x).tanh()).tanh())


class Columns(nn.Module):
    """A convolution written as unfold, matrix product and fold."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Linear(8 * 9, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        columns = F.unfold(self.a(x).relu(), 3, padding=1)
        y = self.b(columns.transpose(1, 2)).transpose(1, 2)
        return self.c(F.fold(y, (6, 6), 1).relu())


class Folding(nn.Module):
    """Overlapping patches are added up by fold."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8 * 4), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(self.b(F.fold(self.a(x).transpose(1, 2), (4, 4), 2, stride=2)).tanh())


class Tail(nn.Module):
    """x + conv(x) on the raw input, then layers that are free."""

    def __init__(self, join):
        super().__init__()
        self.join, self.a = join, nn.Conv2d(3, 3, 3, padding=1)
        self.b, self.c = (
            nn.Conv2d(join(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)).shape[1], 8, 1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        return self.c(self.b(self.join(x, self.a(x))).tanh())


class WideInput(nn.Module):
    """cat([input, conv(x)])."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(self.b(torch.cat([x, self.a(x).relu()], 1)).tanh())


class PaddedShortcut(nn.Module):
    """The parameterless shortcut of CIFAR ResNets: missing channels are zeros."""

    def __init__(self):
        super().__init__()
        self.a, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.b, self.c = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.c(self.b((F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + self.wide(x)).relu()).tanh())


def shuffle_by_view(x):
    batch, channels, height, width = x.shape
    return (
        x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    )


def space_to_depth(x):
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * 4, height // 2, width // 2)


def focus(x):
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


class ChannelAttention(nn.Module):
    """ECA: a convolution that slides along the channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)[..., None, None]


def through(module, into=8, out_of=8):
    return lambda: maps(module(), into, out_of)


EXACT = halves(A_MAP, (3, 4, 1, 1))

CASES = (
    Case("conv1d", signals, (2, 3, 9), "exact", halves((4, 3, 3), (3, 4, 3))),
    Case("conv3d", volumes, (2, 3, 4, 4, 4), "exact", halves((4, 3, 3, 3, 3), (3, 4, 3, 3, 3))),
    Case("conv2d-strided-dilated", strided_and_dilated, IMAGES, "exact", halves(A_MAP, (3, 4, 3, 3))),
    Case("conv2d-functional", Functional, IMAGES, "exact", {"v": A_MAP, "shift": (4,), "w": (3, 4, 1, 1)}),
    Case("conv2d-padded-by-itself", circular, IMAGES, "exact", halves(A_MAP, (3, 4, 3, 3))),
    Case("sliding-windows", lambda: maps(windows), IMAGES, "exact", EXACT),
    Case(
        "overlapping-memory",
        lambda: maps(lambda x: x.contiguous().as_strided((2, 4, 6, 6), (288, 72, 6, 1)), 4),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 4, 1, 1)),
        reason={"a.weight": "aten.as_strided"},
    ),
    Case(
        "depthwise",
        through(lambda: nn.Conv2d(8, 8, 3, groups=8)),
        IMAGES,
        "exact",
        EXACT | {"op.weight": (4, 1, 3, 3)},
    ),
    Case(
        "depthwise-multiplier",
        through(lambda: nn.Conv2d(8, 16, 3, groups=8), into=16),
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "op.weight": (8, 1, 3, 3), "op.bias": (8,), "b.weight": (3, 8, 1, 1)},
    ),
    Case("depthwise-fixed-kernel", through(BlurPool), IMAGES, "exact", EXACT),
    Case(
        "grouped",
        through(lambda: nn.Conv2d(8, 8, 3, groups=4)),
        IMAGES,
        "exact",
        EXACT | {"op.weight": (4, 2, 3, 3)},
    ),
    Case(
        "grouped-transposed",
        through(lambda: nn.ConvTranspose2d(8, 12, 2, 2, groups=4), into=12),
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "op.weight": (4, 3, 2, 2), "op.bias": (6,), "b.weight": (3, 6, 1, 1)},
    ),
    Case(
        "depthwise-transposed",
        through(lambda: nn.ConvTranspose2d(8, 8, 2, 2, groups=8)),
        IMAGES,
        "exact",
        EXACT | {"op.weight": (4, 1, 2, 2)},
    ),
    Case(
        "conv-transpose2d",
        through(lambda: nn.ConvTranspose2d(8, 10, 2, 2), into=10),
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "op.weight": (4, 5, 2, 2), "b.weight": (3, 5, 1, 1)},
    ),
    Case(
        "conv-transpose1d",
        lambda: Between(
            nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 10, 3, 2), nn.Conv1d(10, 6, 1), nn.Conv1d(6, 2, 1)
        ),
        (2, 3, 8),
        "exact",
        {"a.weight": (4, 3, 3), "op.weight": (4, 5, 3), "b.weight": (3, 5, 1)},
    ),
    Case(
        "weight-standardisation", standardised, IMAGES, "renormalised", EXACT, masked=standardised_over_kept
    ),
    Case(
        "deformable-conv",
        Deformable,
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "offset.weight": (18, 4, 3, 3), "b.weight": (3, 4, 3, 3)},
        reason={"offset.weight": "torchvision.deform_conv2d"},
    ),
    Case("unfold-conv", Columns, IMAGES, "exact", {"a.weight": (4, 3, 1, 1), "b.weight": (3, 36)}),
    Case("fold", Folding, (2, 4, 5), "exact", {"a.weight": (16, 5), "b.weight": (3, 4, 1, 1)}),
    Case(
        "add-raw-input",
        lambda: Tail(torch.add),
        IMAGES,
        "exact",
        {"a.weight": (3, 3, 3, 3), "b.weight": (4, 3, 1, 1)},
        reason={"a.weight": "model input"},
    ),
    Case("cat-raw-input", WideInput, IMAGES, "exact", {"a.weight": A_MAP, "b.weight": (3, 7, 1, 1)}),
    Case(
        "padded-shortcut",
        PaddedShortcut,
        IMAGES,
        "exact",
        {"a.weight": (2, 3, 3, 3), "wide.weight": (6, 2, 3, 3), "b.weight": (3, 6, 1, 1)},
    ),
    Case(
        "pixel-shuffle",
        through(lambda: nn.PixelShuffle(2), 8, 32),
        IMAGES,
        "exact",
        halves((16, 3, 3, 3), (3, 4, 1, 1)),
    ),
    Case(
        "pixel-unshuffle",
        through(lambda: nn.PixelUnshuffle(2), 32),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 16, 1, 1)),
    ),
    Case("channel-shuffle-module", through(lambda: nn.ChannelShuffle(2)), IMAGES, "exact", EXACT),
    Case("channel-shuffle-by-view", lambda: maps(shuffle_by_view), IMAGES, "exact", EXACT),
    Case("space-to-depth", lambda: maps(space_to_depth, 32), IMAGES, "exact", halves(A_MAP, (3, 16, 1, 1))),
    Case("focus", lambda: maps(focus, 32), IMAGES, "exact", halves(A_MAP, (3, 16, 1, 1))),
    Case(
        "conv-over-channels",
        through(ChannelAttention),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 8, 1, 1)),
        reason={"a.weight": "aten.conv1d"},
    ),
)

"""Pooling, resampling and looking up by place: space changes, channels pass."""

import torch
import torchvision
from case import A_MAP, A_ROW, IMAGES, TOKENS, WHOLE_MAP, Between, Case, features, halves, maps
from torch import nn
from torch.nn import functional as F


class Unpool(nn.Module):
    """The places of the maxima are kept and used again, as SegNet does."""

    def __init__(self):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x, places = self.pool(x)
        return self.unpool(self.middle(x), places)


class Warp(nn.Module):
    """A spatial transformer: a grid computed from the maps themselves."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Linear(8, 6)

    def forward(self, x):
        theta = self.theta(x.mean((2, 3))).tanh().view(-1, 2, 3)
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Flow(nn.Module):
    """A grid of pixels plus a predicted flow, as optical-flow networks warp."""

    def __init__(self):
        super().__init__()
        self.flow = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        height, width = x.shape[2:]
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([xs, ys], 0)[None].to(x.dtype) + self.flow(x)
        grid = torch.stack([2 * places[:, 0] / (width - 1) - 1, 2 * places[:, 1] / (height - 1) - 1], -1)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


class Regions(nn.Module):
    """RoI align on given boxes, then a head on the pooled maps."""

    def __init__(self, pool, into=8):
        super().__init__()
        self.pool = pool
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(into, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x, boxes):
        return self.c(self.b(self.pool(self.a(x).relu(), boxes)).tanh())


class Suppressed(nn.Module):
    """Boxes and scores of a detector, then non-maximum suppression: how many stay depends on numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 1)
        self.wide, self.side = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.a(x).relu()
        corners = self.b(y).sigmoid()
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
        scores = self.c(y).squeeze(1)
        stay = torchvision.ops.nms(boxes, scores, 0.5)
        return boxes[stay], scores[stay], self.side(self.wide(x))


class Pyramid(nn.Module):
    """Pyramid pooling: maps of several sizes, resampled to one, side by side."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        small = [self.one(F.adaptive_avg_pool2d(x, 1)), self.two(F.adaptive_avg_pool2d(x, 2))]
        grown = [F.interpolate(part, x.shape[2:], mode="bilinear") for part in small]
        return torch.cat([x, *grown], 1)


def boxes():
    return torch.randn(2, 3, 6, 6), torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 3], [1, 0, 2, 3, 5]])


def through(op):
    return lambda: maps(op() if isinstance(op, type) else op)


EXACT = halves(A_MAP, (3, 4, 1, 1))
SIGNAL: tuple[int, ...] = (2, 3, 9)
VOLUME: tuple[int, ...] = (2, 3, 4, 4, 4)


def map_case(name, op):
    return Case(name, through(op), IMAGES, "exact", EXACT)


def signal_case(name, op):
    def make():
        return Between(nn.Conv1d(3, 8, 3, padding=1), op, nn.Conv1d(8, 6, 1), nn.Conv1d(6, 2, 1))

    return Case(name, make, SIGNAL, "exact", halves((4, 3, 3), (3, 4, 1)))


def volume_case(name, op):
    def make():
        return Between(nn.Conv3d(3, 8, 3, padding=1), op, nn.Conv3d(8, 6, 1), nn.Conv3d(6, 2, 1))

    return Case(name, make, VOLUME, "exact", halves((4, 3, 3, 3, 3), (3, 4, 1, 1, 1)))


CASES = (
    map_case("max-pool", nn.MaxPool2d(3, 2, 1)),
    map_case("max-pool-ceil-dilated", nn.MaxPool2d(2, 2, ceil_mode=True, dilation=2)),
    map_case("average-pool", nn.AvgPool2d(2, count_include_pad=False)),
    map_case("power-average-pool", nn.LPPool2d(2, 2)),
    map_case("adaptive-average-pool-to-one", nn.AdaptiveAvgPool2d(1)),
    map_case("adaptive-average-pool", nn.AdaptiveAvgPool2d(2)),
    map_case("adaptive-max-pool", nn.AdaptiveMaxPool2d((2, 3))),
    map_case("max-unpool", Unpool),
    map_case("upsample-nearest", nn.Upsample(scale_factor=2)),
    map_case("upsample-nearest-exact", lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact")),
    map_case("upsample-bilinear", lambda x: F.interpolate(x, (9, 7), mode="bilinear", align_corners=True)),
    map_case("upsample-bicubic", nn.Upsample(scale_factor=2, mode="bicubic")),
    map_case("resize-antialiased", lambda x: F.interpolate(x, (4, 4), mode="bilinear", antialias=True)),
    map_case("upsample-to-another-map", lambda x: x + F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:])),
    map_case("reflection-pad", nn.ReflectionPad2d(2)),
    map_case("replication-pad", nn.ReplicationPad2d(1)),
    map_case("circular-pad", nn.CircularPad2d(1)),
    map_case("zero-pad", nn.ZeroPad2d((1, 0, 2, 1))),
    map_case("spatial-transformer", Warp),
    map_case("warp-by-flow", Flow),
    signal_case("pool1d", nn.Sequential(nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(3), nn.AvgPool1d(2, 1))),
    signal_case("upsample-linear", nn.Upsample(scale_factor=2, mode="linear")),
    volume_case("pool3d", nn.Sequential(nn.MaxPool3d(2, 1), nn.AvgPool3d(2, 1), nn.AdaptiveMaxPool3d(2))),
    volume_case("upsample-trilinear", nn.Upsample(scale_factor=2, mode="trilinear")),
    Case(
        "global-pool-flatten",
        lambda: features(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 4)),
    ),
    Case(
        "adaptive-pool-flatten",
        lambda: features(lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1), 32),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 16)),
    ),
    Case(
        "pyramid-pooling",
        lambda: maps(Pyramid(), 16),
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "op.one.weight": (2, 4, 1, 1), "b.weight": (3, 8, 1, 1)},
    ),
    Case("roi-align", lambda: Regions(torchvision.ops.RoIAlign(2, 1.0, 2)), boxes, "exact", EXACT),
    Case("roi-pool", lambda: Regions(torchvision.ops.RoIPool(2, 1.0)), boxes, "exact", EXACT),
    Case(
        "ps-roi-align",
        lambda: Regions(torchvision.ops.PSRoIAlign(2, 1.0, 2), into=2),
        boxes,
        "protected",
        {"a.weight": WHOLE_MAP},
        reason={"a.weight": "torchvision.ps_roi_align"},
    ),
    Case(
        "non-maximum-suppression",
        Suppressed,
        (40, 5),
        "exact",
        {"a.weight": A_ROW, "b.weight": (4, 4), "c.weight": (1, 4), "wide.weight": A_ROW},
        reason={"b.weight": "torchvision.nms"},
    ),
    Case(
        "pool-of-tokens",
        lambda: Between(
            nn.Linear(5, 8),
            lambda x: F.max_pool1d(x.transpose(1, 2), 2).transpose(1, 2),
            nn.Linear(8, 6),
            nn.Linear(6, 2),
        ),
        TOKENS,
        "exact",
        halves(A_ROW, (3, 4)),
    ),
)

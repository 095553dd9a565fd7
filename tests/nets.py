"""Small networks, each with one difficulty."""

import torch
from torch import nn


class Residual(nn.Module):
    """A stem, a residual block and a head behind a flatten of 2x2 maps."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(x))))
        return self.head(nn.functional.max_pool2d(x, 3).flatten(1))


class Dense(nn.Module):
    """Two branches that are concatenated, then a grouped and a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10)
        self.grouped = nn.Conv2d(10, 8, 1, groups=2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(torch.tanh(self.grouped(torch.sigmoid(self.depthwise(x)))))


class Tied(nn.Module):
    """One weight under two names, between two more layers."""

    def __init__(self):
        super().__init__()
        self.first, self.one = nn.Linear(4, 8), nn.Linear(8, 8)
        self.two, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Attention(nn.Module):
    """Self-attention with a fused projection; the widths are read from attributes."""

    def __init__(self, width=12, heads=3):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = (width // heads) ** -0.5

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


class RuntimeScale(nn.Module):
    """Runs after any cut, with another number: the scale is computed from the width at run time."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x / x.shape[-1] ** 0.5)


class Normed(nn.Module):
    """A layer norm over the cut axis."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


class Branching(nn.Module):
    """Control flow that looks at a number."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x.relu() if x.abs().sum() >= 0 else x)


class Gram(nn.Module):
    """Bilinear pooling: the flattened product of the channels with themselves."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 5, 3), nn.Linear(25, 2)

    def forward(self, x):
        x = self.features(x).flatten(2) / 10
        return self.head((x @ x.transpose(1, 2)).flatten(1))


def randomise(model, seed=0):
    """Values that default initialisation hides: statistics, scales, shifts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
                if "running_var" in name:
                    tensor.abs_().add_(0.5)
    return model

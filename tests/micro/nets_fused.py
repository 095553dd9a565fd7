"""One projection for queries, keys and values, taken apart in the ways it is done."""

from case import TOKENS, Case, Shape
from torch import nn
from torch.nn import functional as F


class Fused(nn.Module):
    """One projection for queries, keys and values, on tokens as wide as the heads together."""

    def __init__(self, heads=4, head_dim=3):
        super().__init__()
        self.num_heads, self.head_dim, self.width = heads, head_dim, heads * head_dim
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(self.width, 3 * self.width)
        self.b, self.c = nn.Linear(self.width, 6), nn.Linear(6, 2)

    def parts(self, x):
        batch, length, channels = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, channels // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x):
        batch, length, channels = x.shape
        q, k, v = self.parts(x)
        mixed = (q * self.scale) @ k.transpose(-2, -1)
        return self.c(self.b((mixed.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, channels)).tanh())


class FusedFlattened(Fused):
    """The way back by flatten, the way in by attributes."""

    def parts(self, x):
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, self.head_dim)
        return qkv.permute(2, 0, 3, 1, 4)

    def forward(self, x):
        q, k, v = self.parts(x)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.c(self.b(mixed.transpose(1, 2).flatten(2)).tanh())


class FusedChunk(FusedFlattened):
    def parts(self, x):
        parts = self.qkv(x).chunk(3, -1)
        return [part.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for part in parts]


class FusedSplit(FusedFlattened):
    def parts(self, x):
        parts = self.qkv(x).split(self.width, -1)
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]


class FusedPerHead(FusedFlattened):
    """(h 3 d) instead of (3 h d), as Falcon and BLOOM have it."""

    def parts(self, x):
        qkv = self.qkv(x).view(*x.shape[:2], self.num_heads, 3 * self.head_dim)
        return [part.transpose(1, 2) for part in qkv.chunk(3, -1)]


class FusedEinops(FusedFlattened):
    """A stem makes the width an axis of its own, which goes down by half as the heads do."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, self.width)

    def forward(self, x):
        return super().forward(self.a(x))


class FusedAfterStem(Fused):
    """The width of the tokens is cut too, and the code derives the head width from it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, self.width)

    def forward(self, x):
        return super().forward(self.a(x))


FUSED = {"qkv.weight": (18, 12), "qkv.bias": (18,), "b.weight": (3, 6)}


STEM = {"a.weight": (6, 5), "qkv.weight": (18, 6), "b.weight": (3, 6)}


WIDE: Shape = (2, 7, 12)

CASES = (
    Case("fused-qkv-reshape", Fused, WIDE, "exact", FUSED),
    Case("fused-qkv-attributes", FusedFlattened, WIDE, "exact", FUSED),
    Case("fused-qkv-chunk", FusedChunk, WIDE, "exact", FUSED),
    Case("fused-qkv-split", FusedSplit, WIDE, "exact", FUSED),
    Case("fused-qkv-per-head", FusedPerHead, WIDE, "exact", FUSED),
    Case("fused-qkv-after-stem", FusedAfterStem, TOKENS, "exact", STEM),
    Case("fused-qkv-attributes-after-stem", FusedEinops, TOKENS, "exact", STEM),
)

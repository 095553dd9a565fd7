"""Channels seen as heads times width, and where Python takes the two numbers from."""

import torch
from case import TOKENS, Case, halves
from nets_reshape import STATED, lines
from torch import nn


class Heads(nn.Module):
    """View as heads, something in between, and back; the sizes come from where `sizes` says."""

    def __init__(self, heads=4, width=3):
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size = heads, width, heads * width
        self.shape = (heads, width)
        self.config = Config(heads, width)
        self.order = nn.Parameter(torch.ones(width))

    def split(self, x):
        raise NotImplementedError

    def join(self, x):
        return x.flatten(2)

    def forward(self, x):
        return self.join(self.split(x) * self.order)


class Config:
    """As transformers' configurations: plain fields."""

    def __init__(self, heads, width):
        self.num_attention_heads, self.hidden_size = heads, heads * width


class Constant(Heads):
    def split(self, x):
        batch, length, _ = x.shape
        return x.view(batch, length, 4, -1)


class ConstantWidth(Heads):
    def split(self, x):
        return x.view(*x.shape[:2], -1, 3)


class FromShape(Heads):
    """The way back takes the width that the input had."""

    def forward(self, x):
        batch, length, channels = x.shape
        y = x.view(batch, length, channels // 3, 3) * self.order
        return y.reshape(batch, length, channels)


class Attributes(Heads):
    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim)

    def join(self, x):
        return x.reshape(x.shape[0], x.shape[1], self.num_heads * self.head_dim)


class AllHeadSize(Heads):
    """As in BERT, a sum of sizes and a tuple."""

    def split(self, x):
        return x.view(x.size()[:-1] + (self.num_heads, self.head_dim))  # noqa: RUF005

    def join(self, x):
        return x.view(x.size()[:-2] + (self.all_head_size,))  # noqa: RUF005


class ShapeTuple(Heads):
    def split(self, x):
        return x.unflatten(-1, self.shape)


class FromConfig(Heads):
    def split(self, x):
        heads = self.config.num_attention_heads
        return x.view(*x.shape[:2], heads, self.config.hidden_size // heads)

    def join(self, x):
        return x.reshape(*x.shape[:2], self.config.hidden_size)


class HeadsFromWidth(Heads):
    """heads = C // head_dim: cutting whole heads changes nothing in the code."""

    def split(self, x):
        return x.view(*x.shape[:2], x.shape[-1] // self.head_dim, self.head_dim)


class WidthFromHeads(Heads):
    """head_dim = C // heads: right by itself if the widths are cut, by the attribute if the heads are."""

    def split(self, x):
        return x.view(*x.shape[:2], self.num_heads, x.shape[-1] // self.num_heads)


HEADS = halves((6, 5), (3, 6))


def heads(name, make, **more):
    return Case(name, lines(make, 12, 12), TOKENS, "exact", HEADS | {"op.order": (3,)}, **more)


CASES = (
    Case(
        "heads-by-a-constant",
        lines(Constant, 12, 12),
        TOKENS,
        "exact",
        halves((4, 5), (3, 4)) | {"op.order": (1,)},
        reason={"a.weight": STATED},
    ),
    heads("head-width-by-a-constant", ConstantWidth),
    heads("heads-from-shape", FromShape),
    heads("heads-by-attributes", Attributes),
    heads("heads-all-head-size", AllHeadSize),
    heads("heads-by-a-shape-tuple", ShapeTuple),
    heads("heads-by-a-config", FromConfig),
    heads("heads-from-width", HeadsFromWidth),
    heads("width-from-heads", WidthFromHeads),
)

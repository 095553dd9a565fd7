"""Where a token stands: rotary embeddings, tables of biases, windows, patches and position parameters."""

import torch
from case import TOKENS, Case
from nets_attention import HEADS, Attention, ByHand, sizes
from torch import nn
from torch.nn import functional as F


class Rotary(Attention):
    """Positions turn pairs of channels; which two make a pair is the subclass's."""

    def __init__(self):
        super().__init__(head_dim=4)
        frequencies = 1.0 / (10.0 ** (torch.arange(0, self.head_dim, 2) / self.head_dim))
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def angles(self, x):
        steps = torch.arange(x.shape[-2], device=x.device).to(self.inv_freq)
        return torch.outer(steps, self.inv_freq)

    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)


class RotaryHalves(Rotary):
    """Llama's layout: channel i goes with i + width / 2."""

    def turn(self, x):
        angles = torch.cat([self.angles(x)] * 2, -1)
        one, two = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * angles.cos() + torch.cat([-two, one], -1) * angles.sin()


class RotaryPairs(Rotary):
    """GPT-J's layout: channel 2 i goes with 2 i + 1."""

    def turn(self, x):
        angles = self.angles(x).repeat_interleave(2, -1)
        swapped = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * angles.cos() + swapped * angles.sin()


class RotaryComplex(Rotary):
    """Llama's reference code: pairs as complex numbers."""

    def turn(self, x):
        angles = self.angles(x)
        turns = torch.polar(torch.ones_like(angles), angles)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(-2)


class RelativeBuckets(ByHand):
    """T5: a table of biases, one row for each distance, one column for each head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, self.num_heads)

    def mix(self, q, k, v):
        steps = torch.arange(q.shape[-2])
        distance = (steps[:, None] - steps[None]).clamp(-4, 4) + 4
        bias = self.table(distance).permute(2, 0, 1).unsqueeze(0)
        return (q @ k.transpose(-2, -1) * self.scale + bias).softmax(-1) @ v


class RelativeTable(ByHand):
    """Swin: a parameter table, looked up by a registered index."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(13, self.num_heads))
        steps = torch.arange(7)
        self.register_buffer("index", (steps[:, None] - steps[None] + 6).flatten())

    def mix(self, q, k, v):
        bias = self.table[self.index].view(q.shape[-2], q.shape[-2], -1).permute(2, 0, 1).contiguous()
        return (q @ k.transpose(-2, -1) * self.scale + bias.unsqueeze(0)).softmax(-1) @ v


class Slopes(ByHand):
    """ALiBi: one buffer entry for each head."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slopes", 0.5 ** torch.arange(1.0, 5).view(1, -1, 1, 1))

    def mix(self, q, k, v):
        distance = torch.arange(k.shape[-2]).to(q.dtype).view(1, 1, 1, -1)
        return (q @ k.transpose(-2, -1) * self.scale - self.slopes * distance).softmax(-1) @ v


class Windows(nn.Module):
    """Shifted windows: roll, partition, something in each window, and back."""

    def __init__(self):
        super().__init__()
        self.window = 3
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.inside = nn.Linear(9, 9)

    def forward(self, x):
        x = torch.roll(self.a(x), shifts=(-1, -1), dims=(1, 2))
        batch, height, width, channels = x.shape
        size = self.window
        x = x.view(batch, height // size, size, width // size, size, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)
        x = self.inside(x.transpose(1, 2)).transpose(1, 2)
        x = x.view(batch, height // size, width // size, size, size, -1).permute(0, 1, 3, 2, 4, 5)
        x = torch.roll(x.reshape(batch, height, width, -1), shifts=(1, 1), dims=(1, 2))
        return self.c(self.b(x).tanh())


class PatchMerging(nn.Module):
    """Four neighbours become one token of four times the width."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(32, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.c(self.b(torch.cat(parts, -1)).tanh())


class Tokens(nn.Module):
    """A patch embedding, a class token and position parameters; the class token is read."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 2, stride=2)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 10, 8))
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.c(self.b(x.tanh())[:, 0])


class ResizedPositions(nn.Module):
    """Position parameters are resampled to the size of the map."""

    def __init__(self):
        super().__init__()
        self.a, self.pos = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.zeros(1, 16, 8))
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        grid = self.pos.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=x.shape[2:], mode="bicubic", align_corners=False)
        return self.c(self.b((x + grid).flatten(2).transpose(1, 2)).tanh())


CASES = (
    Case("rotary-halves", RotaryHalves, TOKENS, "exact", sizes((8, 5), (8, 5), (3, 8), inv_freq=(2,))),
    Case("rotary-pairs", RotaryPairs, TOKENS, "exact", sizes((8, 5), (8, 5), (3, 8), inv_freq=(2,))),
    Case("rotary-complex", RotaryComplex, TOKENS, "exact", sizes((8, 5), (8, 5), (3, 8), inv_freq=(2,))),
    Case("relative-position-buckets", RelativeBuckets, TOKENS, "exact", HEADS | {"table.weight": (9, 2)}),
    Case("relative-position-table", RelativeTable, TOKENS, "exact", HEADS | {"table": (13, 2)}),
    Case("alibi-slopes", Slopes, TOKENS, "exact", HEADS | {"slopes": (1, 2, 1, 1)}),
    Case("windows-and-roll", Windows, (2, 6, 6, 5), "exact", {"a.weight": (4, 5), "b.weight": (3, 4)}),
    Case("patch-merging", PatchMerging, (2, 6, 6, 5), "exact", {"a.weight": (4, 5), "b.weight": (3, 16)}),
    Case(
        "class-token-and-positions",
        Tokens,
        (2, 3, 6, 6),
        "exact",
        {"a.weight": (4, 3, 2, 2), "cls": (1, 1, 4), "pos": (1, 10, 4), "b.weight": (3, 4)},
    ),
    Case(
        "resized-positions",
        ResizedPositions,
        (2, 3, 6, 6),
        "exact",
        {"a.weight": (4, 3, 2, 2), "pos": (1, 16, 4)},
    ),
)

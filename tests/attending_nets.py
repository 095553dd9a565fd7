"""Small attentions, written in the ways that people write them."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Two query heads for each key head if grouped, of one width.

    Args:
        how: "fused", "matmul", "bmm" or "einsum".
        grouped: Two query heads share keys and values.
        bias: The layers have biases.
        between: What lies between the queries and their product: "", "norm", "shift", "rotary", "partly" (a
            half of the positions is rotary).
        together: One layer makes queries, keys and values.
    """

    def __init__(self, how="fused", *, grouped=False, bias=True, between="", together=False):
        super().__init__()
        self.how, self.between, self.heads, self.width = how, between, 4, 8
        self.groups = 2 if grouped else 4
        self.sizes = [self.heads * 8, self.groups * 8, self.groups * 8]
        if together:
            self.make = nn.Linear(12, sum(self.sizes), bias=bias)
        else:
            self.query, self.key, self.value = (nn.Linear(12, size, bias=bias) for size in self.sizes)
        self.norm = nn.LayerNorm(8, elementwise_affine=False) if between == "norm" else None
        self.shift = nn.Parameter(torch.ones(self.heads, 1, 8)) if between == "shift" else None
        self.register_buffer("turns", torch.tensor([1.0, 1.0, 0.3, 0.1]))
        self.out = nn.Linear(self.heads * 8, 12, bias=bias)

    def heads_of(self, x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    def turned(self, x):
        if self.between == "partly":
            x, rest = x[..., :4], x[..., 4:]
        turns = self.turns if self.between == "rotary" else self.turns[1:3]
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * turns
        cos, sin = angles.cos(), angles.sin()
        one, two = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        made = [one * cos - two * sin, two * cos + one * sin]
        return torch.cat([*made, rest] if self.between == "partly" else made, -1)

    def forward(self, x):
        if hasattr(self, "make"):
            query, key, value = self.make(x).split(self.sizes, -1)
        else:
            query, key, value = self.query(x), self.key(x), self.value(x)
        query, key, value = (
            self.heads_of(one, count)
            for one, count in zip((query, key, value), (self.heads, self.groups, self.groups), strict=True)
        )
        if self.norm is not None:
            query = self.norm(query)
        if self.shift is not None:
            query = query + self.shift
        if self.between in ("rotary", "partly"):
            query, key = self.turned(query), self.turned(key)
        mixed = self.mixed(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def mixed(self, query, key, value):
        if self.how == "fused":
            grouped = self.groups != self.heads
            return functional.scaled_dot_product_attention(query, key, value, scale=0.4, enable_gqa=grouped)
        if self.groups != self.heads:
            key, value = (one.repeat_interleave(2, 1) for one in (key, value))
        if self.how == "einsum":
            logits = torch.einsum("bhid,bhjd->bhij", query, key)
        elif self.how == "bmm":
            logits = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT).unflatten(0, (-1, self.heads))
        else:
            logits = query @ key.transpose(-1, -2)
        return (logits * 0.4).softmax(-1) @ value


class Attending(nn.Module):
    """An attention with a shortcut, and a head."""

    def __init__(self, *args, **words):
        super().__init__()
        self.attention, self.head = Attention(*args, **words), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(x + self.attention(x))


def attending(*args, seed=0, **words):
    """One of random weights, in float64."""
    torch.manual_seed(seed)
    model = Attending(*args, **words).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def of_rank(layer, width, rank, begin=0, end=None):
    """Let the first few channels of each head say all of it, and the others no more than these."""
    end = layer.out_features if end is None else end
    generator = torch.Generator().manual_seed(begin + end)
    with torch.no_grad():
        for at in range(begin, end, width):
            mix = torch.randn(width, rank, generator=generator, dtype=torch.float64)
            for held in (layer.weight, layer.bias):
                if held is not None:
                    held[at : at + width] = mix @ held[at : at + rank]

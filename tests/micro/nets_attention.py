"""Attention in the ways it is written: heads are cut whole, their widths stay.

Unless a name says otherwise: tokens of width 5, four heads of width 3, an output projection `b`, a head `c`.
"""

import math

import torch
from case import TOKENS, Case, Shape
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Three projections, views by attributes, an output projection."""

    def __init__(self, width=5, heads=4, head_dim=3, kv_heads=None):
        super().__init__()
        self.num_heads, self.head_dim, self.num_kv_heads = heads, head_dim, kv_heads or heads
        self.groups = heads // self.num_kv_heads
        self.q = nn.Linear(width, heads * head_dim)
        self.k = nn.Linear(width, self.num_kv_heads * head_dim)
        self.v = nn.Linear(width, self.num_kv_heads * head_dim)
        self.b, self.c = nn.Linear(heads * head_dim, 6), nn.Linear(6, 2)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def join(self, x):
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)

    def project(self, x):
        q = self.split(self.q(x), self.num_heads)
        return q, self.split(self.k(x), self.num_kv_heads), self.split(self.v(x), self.num_kv_heads)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x):
        return self.c(self.b(self.join(self.mix(*self.project(x)))).tanh())


class BooleanMask(Attention):
    def mix(self, q, k, v):
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Causal(Attention):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)


class AdditiveMask(Attention):
    """The mask is an input: (batch, 1, queries, keys)."""

    def forward(self, x, mask):
        q, k, v = self.project(x)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.c(self.b(self.join(mixed)).tanh())


class ByHand(Attention):
    """Products and a softmax; the scale is a number of the module."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.scale = self.head_dim**-0.5

    def mix(self, q, k, v):
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v


class FilledMask(ByHand):
    """masked_fill with a registered triangle, as GPT-2 did."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(16, 16, dtype=torch.bool)), persistent=False)

    def mix(self, q, k, v):
        scores = q @ k.transpose(-2, -1) * self.scale
        length = scores.shape[-1]
        scores = scores.masked_fill(~self.bias[:length, :length], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v


class ScaleFromSize(Attention):
    """The scale is computed from the width of a head, at run time; whole heads do not change it."""

    def mix(self, q, k, v):
        return (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1) @ v


class ScaleFromSizeTensor(Attention):
    """As DeBERTa does: the size becomes a tensor first."""

    def mix(self, q, k, v):
        scale = torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float))
        return (q @ k.transpose(-2, -1) / scale.to(q.dtype)).softmax(-1) @ v


class Einsum(Attention):
    def split(self, x, heads):
        return x.unflatten(-1, (heads, -1))

    def join(self, x):
        return x.flatten(2)

    def mix(self, q, k, v):
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / self.head_dim**0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


class Linearised(Attention):
    """Linear attention: keys meet values first."""

    def mix(self, q, k, v):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = torch.einsum("bhnd,bhne->bhde", k, v)
        norm = torch.einsum("bhnd,bhd->bhn", q, k.sum(2)).reciprocal()
        return torch.einsum("bhnd,bhde,bhn->bhne", q, context, norm)


class Merged(Attention):
    """Batch and heads in one dim, products by bmm and baddbmm."""

    def mix(self, q, k, v):
        shape = q.shape
        q, k, v = (part.reshape(-1, *part.shape[2:]) for part in (q, k, v))
        scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=0.5)
        return torch.bmm(scores.softmax(-1), v).view(shape)


class GroupedByInterleave(Attention):
    """Every key head serves two query heads."""

    def mix(self, q, k, v):
        k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        return F.scaled_dot_product_attention(q, k, v)


class GroupedByExpand(Attention):
    """repeat_kv of transformers."""

    def repeat(self, x):
        batch, heads, length, width = x.shape
        x = x[:, :, None].expand(batch, heads, self.groups, length, width)
        return x.reshape(batch, heads * self.groups, length, width)

    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))


class GroupedByFlag(Attention):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class SharedKeys(Attention):
    """Multi-query attention: one key head, broadcast."""

    def mix(self, q, k, v):
        return (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v


class OneHead(nn.Module):
    """No heads: the width of queries and keys is an axis of its own, the width of values another."""

    def __init__(self, scale=None):
        super().__init__()
        self.scale = scale
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 6)
        self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), scale=self.scale)
        return self.c(self.b(mixed).tanh())


class OneHeadScaledBySize(OneHead):
    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.c(self.b((q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1) @ v).tanh())


class OneHeadScaledBySizeTensor(OneHead):
    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scale = torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float)).to(q.dtype)
        return self.c(self.b((q @ k.transpose(-2, -1) / scale).softmax(-1) @ v).tanh())


class Cosine(Attention):
    """Swin V2: normalised queries and keys, a learned scale for each head."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(self.num_heads, 1, 1))

    def mix(self, q, k, v):
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (scores * self.logit_scale.clamp(max=4.6).exp()).softmax(-1) @ v


class TalkingHeads(ByHand):
    """A linear map over the heads, before the softmax and after it."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def mix(self, q, k, v):
        scores = self.before((q @ k.transpose(-2, -1) * self.scale).permute(0, 2, 3, 1))
        return self.after(scores.softmax(2)).permute(0, 3, 1, 2) @ v


class LearnedQueries(ByHand):
    """Queries are parameters, as in Perceiver and DETR."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, 3, 5))

    def forward(self, x):
        q = self.split(self.q(self.queries.expand(x.shape[0], -1, -1)), self.num_heads)
        _, k, v = self.project(x)
        return self.c(self.b(self.join(self.mix(q, k, v))).tanh())


class Pooling(nn.Module):
    """Additive attention: one score for each token, tokens summed by it."""

    def __init__(self):
        super().__init__()
        self.a, self.score = nn.Linear(5, 8), nn.Linear(8, 1)
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        return self.c(self.b((self.score(x.tanh()).softmax(1) * x).sum(1)).tanh())


def sizes(query: Shape, key: Shape, b: Shape, **more: Shape) -> dict[str, Shape]:
    return {"q.weight": query, "k.weight": key, "v.weight": key, "b.weight": b, **more}


HEADS = sizes((6, 5), (6, 5), (3, 6))


GROUPED = sizes((6, 5), (3, 5), (3, 6))


def heads(name, make, inputs=TOKENS, **more):
    return Case(name, make, inputs, "exact", HEADS | more)


def grouped(name, kind):
    return Case(name, lambda: kind(kv_heads=2), TOKENS, "exact", GROUPED)


CASES = (
    heads("attention", Attention),
    heads("attention-boolean-mask", BooleanMask),
    Case("attention-additive-mask", AdditiveMask, (TOKENS, (2, 1, 7, 7)), "exact", HEADS),
    heads("attention-causal", Causal),
    heads("attention-by-hand", ByHand),
    heads("attention-filled-mask", FilledMask),
    heads("attention-scale-from-size", ScaleFromSize),
    heads("attention-scale-from-size-tensor", ScaleFromSizeTensor),
    heads("attention-einsum", Einsum),
    heads("attention-linear", Linearised),
    heads("attention-merged-batch", Merged),
    grouped("attention-grouped-interleave", GroupedByInterleave),
    grouped("attention-grouped-expand", GroupedByExpand),
    grouped("attention-grouped-flag", GroupedByFlag),
    Case(
        "attention-multi-query",
        lambda: SharedKeys(kv_heads=1),
        TOKENS,
        "exact",
        sizes((6, 5), (3, 5), (3, 6)),
    ),
    Case(
        "one-head-own-scale",
        lambda: OneHead(0.5),
        TOKENS,
        "exact",
        {"q.weight": (4, 5), "k.weight": (4, 5), "v.weight": (3, 5)},
    ),
    Case(
        "one-head-default-scale",
        OneHead,
        TOKENS,
        "protected",
        {"q.weight": (8, 5), "k.weight": (8, 5), "v.weight": (3, 5), "b.weight": (3, 3)},
        reason={"q.weight": "the attention scale is computed from the width of a head"},
    ),
    Case(
        "one-head-scale-from-size",
        OneHeadScaledBySize,
        TOKENS,
        "exact",
        {"q.weight": (4, 5), "k.weight": (4, 5), "v.weight": (3, 5), "b.weight": (3, 3)},
    ),
    Case(
        "one-head-scale-from-size-tensor",
        OneHeadScaledBySizeTensor,
        TOKENS,
        "protected",
        {"q.weight": (8, 5), "k.weight": (8, 5), "v.weight": (3, 5), "b.weight": (3, 3)},
        reason={"q.weight": "computes other numbers than the masked one"},
    ),
    Case("cosine-attention", Cosine, TOKENS, "exact", HEADS | {"logit_scale": (2, 1, 1)}),
    Case("talking-heads", TalkingHeads, TOKENS, "exact", HEADS | {"before.weight": (2, 2)}),
    heads("learned-queries", LearnedQueries, queries=(1, 3, 5)),
    Case(
        "attention-pooling",
        Pooling,
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "score.weight": (1, 4), "b.weight": (3, 4)},
    ),
)

"""Attention modules of torch.nn: their Python is not the model's."""

from case import TOKENS, Case
from nets_fused import WIDE
from torch import nn


class Multihead(nn.Module):
    """nn.MultiheadAttention between a stem and a head."""

    def __init__(self, *, batch_first=True, cross=False, stem=True, **more):
        super().__init__()
        self.cross = cross
        self.a = nn.Linear(5, 12) if stem else nn.Identity()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=batch_first, **more)
        self.b, self.c = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x, memory=None):
        x = self.a(x)
        memory = memory if self.cross else x
        mixed, _ = self.attention(x, memory, memory, need_weights=False)
        return self.c(self.b(mixed).tanh())


class MultiheadWithWeights(Multihead):
    """The averaged attention weights are an output too."""

    def forward(self, x):
        mixed, weights = self.attention(self.a(x), self.a(x), self.a(x))
        return self.c(self.b(mixed).tanh()), weights


def weights_over_kept(net, kept):
    """The weights of all heads, averaged over the kept ones by hand."""
    heads = kept["attention.in_proj_weight"][0].div(3, rounding_mode="floor").unique()

    def forward(x):
        x = net.a(x)
        mixed, weights = net.attention(x, x, x, average_attn_weights=False)
        return net.c(net.b(mixed).tanh()), weights[:, heads[heads < 4]].mean(1)

    net.forward = forward


class EncoderLayer(nn.Module):
    def __init__(self, *, stem, **more):
        super().__init__()
        self.a = nn.Linear(5, 12) if stem else nn.Identity()
        self.layer = nn.TransformerEncoderLayer(12, 4, 16, dropout=0.1, batch_first=True, **more)
        self.b, self.c = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(self.b(self.layer(self.a(x))).tanh())


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(12, 4, 16, batch_first=True)
        self.b, self.c = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x, memory):
        return self.c(self.b(self.layer(x, memory)).tanh())


CASES = (
    Case(
        "multihead-attention",
        Multihead,
        TOKENS,
        "exact",
        {
            "a.weight": (6, 5),
            "attention.in_proj_weight": (18, 6),
            "attention.out_proj.weight": (6, 6),
            "b.weight": (3, 6),
        },
    ),
    Case(
        "multihead-attention-raw-input",
        lambda: Multihead(stem=False),
        WIDE,
        "exact",
        {"attention.in_proj_weight": (18, 12), "attention.out_proj.weight": (6, 6), "b.weight": (3, 6)},
    ),
    Case(
        "multihead-attention-length-first",
        lambda: Multihead(batch_first=False, bias=False),
        TOKENS,
        "exact",
        {"a.weight": (6, 5), "attention.in_proj_weight": (18, 6), "attention.out_proj.weight": (6, 6)},
    ),
    Case(
        "multihead-attention-weights",
        MultiheadWithWeights,
        TOKENS,
        "renormalised",
        {"a.weight": (6, 5), "attention.in_proj_weight": (18, 6), "attention.out_proj.weight": (6, 6)},
        masked=weights_over_kept,
    ),
    Case(
        "multihead-attention-cross",
        lambda: Multihead(cross=True, kdim=7, vdim=7),
        (TOKENS, (2, 4, 7)),
        "exact",
        {
            "a.weight": (6, 5),
            "attention.q_proj_weight": (6, 6),
            "attention.k_proj_weight": (6, 7),
            "b.weight": (3, 6),
        },
    ),
    Case(
        "transformer-encoder-layer",
        lambda: EncoderLayer(stem=False),
        WIDE,
        "exact",
        {
            "layer.self_attn.in_proj_weight": (18, 12),
            "layer.linear1.weight": (8, 12),
            "layer.linear2.weight": (12, 8),
        },
    ),
    Case(
        "transformer-encoder-layer-norm-first",
        lambda: EncoderLayer(stem=False, norm_first=True, activation="gelu"),
        WIDE,
        "exact",
        {
            "layer.self_attn.in_proj_weight": (18, 12),
            "layer.linear1.weight": (8, 12),
            "layer.linear2.weight": (12, 8),
        },
    ),
    Case(
        "transformer-decoder-layer",
        DecoderLayer,
        (WIDE, (2, 4, 12)),
        "exact",
        {
            "layer.self_attn.in_proj_weight": (18, 12),
            "layer.multihead_attn.out_proj.weight": (12, 6),
            "layer.linear1.weight": (8, 12),
        },
    ),
)

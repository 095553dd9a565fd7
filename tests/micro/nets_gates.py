"""Gates: two paths meet position by position, or channels are weighed by what all of them say."""

import torch
from case import A_MAP, A_ROW, IMAGES, TOKENS, Case, halves, maps, rows
from masked import over_kept
from torch import nn
from torch.nn import functional as F


class TwoLinears(nn.Module):
    """SwiGLU as Llama has it: gate, up, down."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(5, 8, bias=False), nn.Linear(5, 8, bias=False)
        self.b, self.c = nn.Linear(8, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(self.b(F.silu(self.gate(x)) * self.up(x)).tanh())


class FusedGate(nn.Module):
    """SwiGLU with one projection and sizes from an attribute."""

    def __init__(self):
        super().__init__()
        self.hidden = 8
        self.a, self.b, self.c = nn.Linear(5, 16), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        gate, value = torch.split(self.a(x), [self.hidden, self.hidden], dim=-1)
        return self.c(self.b(F.silu(gate) * value).tanh())


class Squeeze(nn.Module):
    """Squeeze and excite, by 1x1 convolutions or by linear layers."""

    def __init__(self, *, linear=False):
        super().__init__()
        make = nn.Linear if linear else lambda wide, thin: nn.Conv2d(wide, thin, 1)
        self.linear, self.down, self.up = linear, make(8, 4), make(4, 8)

    def forward(self, x):
        pooled = x.mean((2, 3), keepdim=not self.linear)
        scale = self.up(self.down(pooled).relu()).sigmoid()
        return x * (scale[:, :, None, None] if self.linear else scale)


class SharedExcitation(nn.Module):
    """CBAM's channel attention: one network for the mean and for the maximum of each channel."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        scores = [
            self.up(self.down(pool(x, 1)).relu()) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
        ]
        return x * torch.sigmoid(sum(scores))


class SpatialAttention(nn.Module):
    """CBAM's other half: mean and maximum over the channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.conv(pooled).sigmoid()


class Selective(nn.Module):
    """Selective kernels: a softmax over the branches, not over the channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 16)

    def forward(self, x):
        branches = torch.stack([self.one(x), self.two(x)], 1)
        scores = self.up(self.down(branches.sum(1).mean((2, 3))).relu())
        weights = scores.view(x.shape[0], 2, -1).softmax(1)
        return (branches * weights[..., None, None]).sum(1)


class Highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        open_ = self.gate(x).sigmoid()
        return open_ * self.plain(x).relu() + (1 - open_) * x


class Experts(nn.Module):
    """A dense mixture: every expert runs, a softmax over the experts weighs them."""

    def __init__(self):
        super().__init__()
        self.a, self.router = nn.Linear(5, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(3)
        )
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        weights = self.router(x).softmax(-1)
        x = sum(weights[..., at : at + 1] * expert(x) for at, expert in enumerate(self.experts))
        return self.c(self.b(x).tanh())


class StackedExperts(nn.Module):
    """The experts' weights in one tensor: (experts, in, out)."""

    def __init__(self):
        super().__init__()
        self.a, self.router = nn.Linear(5, 8), nn.Linear(8, 4)
        self.up, self.down = nn.Parameter(torch.zeros(4, 8, 6)), nn.Parameter(torch.zeros(4, 6, 8))
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        hidden = torch.einsum("nti,eio->nteo", x, self.up).relu()
        x = torch.einsum("nteo,eoi,nte->nti", hidden, self.down, self.router(x).sigmoid())
        return self.c(self.b(x).tanh())


class TopExperts(nn.Module):
    """Each token goes to its two best experts: how many tokens an expert gets depends on numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.router = nn.Linear(5, 8), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x).flatten(0, 1)
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        y = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            rows_, slot = torch.where(chosen == at)
            y.index_add_(0, rows_, expert(x[rows_]) * weights[rows_, slot, None])
        return self.c(self.b(y).tanh())


def glu(x):
    one, two = x.chunk(2, -1)
    return one * two.sigmoid()


def geglu(x):
    value, gate = x.split(x.shape[-1] // 2, -1)
    return value * F.gelu(gate)


def relu_maps(x):
    one, two = x.chunk(2, 1)
    return one * two.relu()


def maxout(x):
    return x.view(x.shape[0], x.shape[1], -1, 2).amax(-1)


def crelu(x):
    return torch.cat([x.relu(), (-x).relu()], -1)


def through(make, into=8, out_of=8, frame=maps):
    return lambda: frame(make() if isinstance(make, type) else make, into, out_of)


def lines(make, into=8, out_of=8):
    return through(make, into, out_of, rows)


EXACT = halves(A_MAP, (3, 4, 1, 1))
GLU = halves((8, 5), (3, 4))


CASES = (
    Case("glu-by-chunk", lines(glu, 8, 16), TOKENS, "exact", GLU),
    Case("geglu-by-split", lines(geglu, 8, 16), TOKENS, "exact", GLU),
    Case("glu-function", lines(nn.GLU, 8, 16), TOKENS, "exact", GLU),
    Case("glu-of-maps", through(relu_maps, 8, 16), IMAGES, "exact", halves((8, 3, 3, 3), (3, 4, 1, 1))),
    Case(
        "swiglu-two-linears",
        TwoLinears,
        TOKENS,
        "exact",
        {"gate.weight": (4, 5), "up.weight": (4, 5), "b.weight": (3, 4)},
    ),
    Case("swiglu-split-by-attribute", FusedGate, TOKENS, "exact", GLU),
    Case(
        "squeeze-and-excite",
        through(Squeeze),
        IMAGES,
        "exact",
        EXACT | {"op.down.weight": (2, 4, 1, 1), "op.up.weight": (4, 2, 1, 1)},
    ),
    Case(
        "squeeze-and-excite-linear",
        lambda: maps(Squeeze(linear=True)),
        IMAGES,
        "exact",
        EXACT | {"op.down.weight": (2, 4), "op.up.weight": (4, 2)},
    ),
    Case(
        "channel-attention-shared",
        through(SharedExcitation),
        IMAGES,
        "exact",
        EXACT | {"op.down.weight": (2, 4, 1, 1)},
    ),
    Case(
        "spatial-attention",
        through(SpatialAttention),
        IMAGES,
        "renormalised",
        EXACT,
        masked=over_kept("op", "a.weight", 1),
    ),
    Case(
        "selective-kernels",
        through(Selective),
        IMAGES,
        "exact",
        EXACT | {"op.one.weight": (4, 4, 3, 3), "op.up.weight": (8, 2)},
    ),
    Case("highway", lines(Highway), TOKENS, "exact", halves(A_ROW, (3, 4)) | {"op.gate.weight": (4, 4)}),
    Case("maxout", lines(maxout, 8, 16), TOKENS, "exact", halves((8, 5), (3, 4))),
    Case("concatenated-relu", lines(crelu, 16), TOKENS, "exact", halves(A_ROW, (3, 8))),
    Case(
        "experts-dense",
        Experts,
        TOKENS,
        "exact",
        {
            "a.weight": A_ROW,
            "experts.1.0.weight": (3, 4),
            "experts.1.2.weight": (4, 3),
            "router.weight": (3, 4),
        },
    ),
    Case(
        "experts-in-one-tensor",
        StackedExperts,
        TOKENS,
        "exact",
        {"a.weight": A_ROW, "up": (2, 4, 3), "down": (2, 3, 4), "router.weight": (2, 4)},
    ),
    Case(
        "experts-by-top-k",
        TopExperts,
        TOKENS,
        "exact",
        {"a.weight": A_ROW, "router.weight": (4, 4), "b.weight": (3, 4)},
        reason={"router.weight": "aten.topk"},
    ),
)

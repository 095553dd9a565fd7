"""Numbers that Python computes at run time: from the count of the channels, from their values, one by one."""

import math

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_MAP, WHOLE_ROW, Case, halves, maps, rows
from masked import over_kept
from torch import nn
from torch.nn import functional as F


class Branching(nn.Module):
    """A branch that depends on numbers of the hidden layer."""

    def forward(self, x):
        return x.relu() if x.square().sum() > 1e-6 else -x


class InputBranch(nn.Module):
    """A branch that depends on the mean of the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x).relu() if x.mean() > 0 else self.a(x).tanh()
        return self.c(self.b(x).tanh())


class RuntimeShape(nn.Module):
    """Layer norm without parameters over whatever follows the batch."""

    def forward(self, x):
        return F.layer_norm(x, x.shape[1:])


class Cached(nn.Module):
    """A table is made at the first call and kept."""

    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, x):
        if self.table is None or self.table.shape[0] != x.shape[1]:
            self.table = torch.ones(x.shape[1], 1, dtype=x.dtype).cumsum(0)
        return x * self.table


class Counting(nn.Module):
    """A buffer that counts the calls, and a running mean that is written but not read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.calls += 1
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x.tanh()


class SinusoidBuffer(nn.Module):
    """Positions as a registered table."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", sinusoid(10, 8))

    def forward(self, x):
        return x + self.table[: x.shape[1]]


class SinusoidRuntime(nn.Module):
    """Positions computed from the width at every call."""

    def forward(self, x):
        return x + sinusoid(x.shape[1], x.shape[2]).to(x.dtype)


def sinusoid(length, width):
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(100.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Unregistered(nn.Module):
    """Layers in a plain list: PyTorch does not know their parameters."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8).requires_grad_(False)]

    def forward(self, x):
        return F.linear(x, self.layers[0].weight.to(x.dtype))


class LayerForEachChannel(nn.Module):
    """One small layer for each channel, in a Python loop over slices."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1, 1, 1) for _ in range(8))

    def forward(self, x):
        return torch.cat([layer(x[:, at : at + 1]) for at, layer in enumerate(self.layers)], 1)


def add_one_by_one(x):
    total = x[:, 0:1]
    for at in range(1, x.shape[1]):
        total = total + x[:, at : at + 1]
    return total


def by_size_in_full(x):
    return x / torch.full((1,), float(x.shape[1]), dtype=x.dtype)


def through(op, into=8):
    return lambda: maps(op() if isinstance(op, type) else op, into)


def rowwise(op, into=8):
    return lambda: rows(op() if isinstance(op, type) else op, into)


EXACT = halves(A_MAP, (3, 4, 1, 1))
LINES = halves(A_ROW, (3, 4))
WHOLE = halves(WHOLE_ROW, (3, 8))
UNNAMED = "channels that are taken one by one have no axis, and so no reason on the page"
OTHER_NUMBERS = "computes other numbers than the masked one"


def left_whole(name, op, fragment, inputs=ROWS, into=8, bug=""):
    return Case(
        name,
        rowwise(op, into),
        inputs,
        "protected",
        halves(WHOLE_ROW, (3, into)),
        reason={"a.weight": fragment},
        bug=bug,
    )


CASES = (
    Case("branch-on-hidden-numbers", rowwise(Branching), ROWS, "exact", LINES),
    Case("branch-on-the-input", InputBranch, lambda: torch.rand(3, 5), "exact", LINES),
    Case(
        "scaled-by-the-mean-of-all",
        rowwise(lambda x: x * x.abs().mean()),
        ROWS,
        "renormalised",
        LINES,
        masked=over_kept("op", "a.weight", 1),
    ),
    Case("scaled-by-the-norm-of-all", rowwise(lambda x: x / x.norm()), ROWS, "exact", LINES),
    Case("size-in-arithmetic", rowwise(lambda x: x / x.shape[-1] ** 0.5), ROWS, "exact", LINES),
    Case("size-as-a-factor", rowwise(lambda x: x * x.size(1)), ROWS, "exact", LINES),
    Case(
        "number-of-elements",
        rowwise(lambda x: x / x.numel()),
        ROWS,
        "exact",
        LINES,
    ),
    Case("size-in-full", rowwise(by_size_in_full), ROWS, "exact", LINES),
    left_whole("size-as-tensor", lambda x: x / torch.tensor(x.size(-1)).to(x.dtype).sqrt(), OTHER_NUMBERS),
    Case(
        "layer-norm-of-runtime-shape",
        rowwise(RuntimeShape),
        ROWS,
        "renormalised",
        LINES,
        masked=over_kept("op", "a.weight", 1),
    ),
    left_whole("arange-over-channels", lambda x: x * torch.arange(x.shape[1]), "aten.arange"),
    left_whole(
        "linspace-over-channels",
        lambda x: x * torch.linspace(0, 1, x.shape[1], dtype=x.dtype),
        "aten.linspace",
    ),
    left_whole("identity-matrix", lambda x: x @ torch.eye(x.shape[1], dtype=x.dtype), "aten.eye"),
    left_whole(
        "numbers-in-a-list", lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=x.dtype), "constant"
    ),
    Case("sinusoid-as-a-buffer", rowwise(SinusoidBuffer), TOKENS, "exact", LINES | {"op.table": (10, 4)}),
    left_whole("sinusoid-at-run-time", SinusoidRuntime, "nets_numbers.py", TOKENS),
    Case("cached-table", rowwise(Cached), TOKENS, "exact", LINES),
    Case("counting-buffer", rowwise(Counting), ROWS, "exact", LINES | {"op.mean": (4,), "op.calls": ()}),
    left_whole("layers-in-a-plain-list", Unregistered, "a constant tensor"),
    left_whole("channels-added-one-by-one", add_one_by_one, "nets_numbers.py", into=1, bug=UNNAMED),
    Case(
        "layer-for-each-channel",
        through(LayerForEachChannel),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 8, 1, 1)),
        reason={"a.weight": "nets_numbers.py"},
        bug=UNNAMED,
    ),
)

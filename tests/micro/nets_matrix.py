"""Products of matrices, look-ups in tables, and choices by index or by mask."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_ROW, Between, Case, halves, rows
from torch import nn
from torch.nn import functional as F


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight is (in, out), addmm on flattened tokens."""

    def __init__(self, nx, nf):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.zeros(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        shape = x.size()[:-1] + (self.nf,)  # noqa: RUF005 - as it is written there
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class BareParameters(nn.Module):
    """x @ self.w, and F.linear with a parameter."""

    def __init__(self):
        super().__init__()
        self.v, self.w = nn.Parameter(torch.zeros(5, 8)), nn.Parameter(torch.zeros(8, 6))
        self.shift, self.u = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(2, 6))

    def forward(self, x):
        return F.linear((x @ self.v + self.shift).relu() @ self.w, self.u)


class LowRank(nn.Module):
    """A frozen weight plus a product of two thin ones, as LoRA has it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 8)
        self.down, self.up = nn.Parameter(torch.zeros(4, 8)), nn.Parameter(torch.zeros(8, 4))

    def forward(self, x):
        return self.base(x) + (x @ self.down.t() @ self.up.t()) * 0.5


class MergedLowRank(LowRank):
    """The two thin weights are multiplied first."""

    def forward(self, x):
        return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)


class TwoPaths(nn.Module):
    """Two layers meet in an operator, then b and c."""

    def __init__(self, meet, into, left=8, right=6):
        super().__init__()
        self.meet = meet
        self.left, self.right = nn.Linear(5, left), nn.Linear(5, right)
        self.b, self.c = nn.Linear(into, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(self.b(self.meet(self.left(x), self.right(x))).tanh())


class Correlation(nn.Module):
    """All pairs of positions of two maps: channels are summed over."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(16, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x, y):
        one, two = self.a(x).flatten(2), self.a(y).flatten(2)
        pairs = torch.matmul(one.transpose(1, 2), two) / 4
        return self.c(self.b(pairs.view(x.shape[0], -1, 4, 4)).tanh())


class Hypernetwork(nn.Module):
    """One layer computes the weights of another."""

    def __init__(self):
        super().__init__()
        self.ins, self.outs = 8, 6
        self.a, self.maker = nn.Linear(5, 8), nn.Linear(8, 8 * 6)
        self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        weights = self.maker(x.tanh()).view(-1, self.outs, self.ins)
        return self.c(self.b(torch.bmm(weights, x.unsqueeze(2)).squeeze(2)).tanh())


class Diagonal(nn.Module):
    """A gate as a diagonal matrix."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        return (torch.diag_embed(self.gate(x).sigmoid()) @ x.unsqueeze(2)).squeeze(2)


def rowwise(op, into=8, out_of=8):
    return lambda: rows(op() if isinstance(op, type) else op, into, out_of)


LINES = halves(A_ROW, (3, 4))


"""What is picked from stays whole; a pick itself may go, with the number that made it."""


LEFT = {"left.weight": (4, 5), "right.weight": (6, 5)}


CASES = (
    Case(
        "conv1d-of-gpt2",
        lambda: Between(Conv1D(5, 8), nn.GELU(), Conv1D(8, 6), nn.Linear(6, 2)),
        TOKENS,
        "exact",
        {"a.weight": (5, 4), "a.bias": (4,), "b.weight": (4, 3)},
    ),
    Case(
        "bare-parameters",
        BareParameters,
        ROWS,
        "exact",
        {"v": (5, 4), "shift": (4,), "w": (4, 3), "u": (2, 3)},
    ),
    Case(
        "low-rank-addition",
        rowwise(LowRank),
        ROWS,
        "exact",
        LINES | {"op.base.weight": (4, 4), "op.down": (2, 4), "op.up": (4, 2)},
    ),
    Case(
        "low-rank-merged",
        rowwise(MergedLowRank),
        ROWS,
        "exact",
        LINES | {"op.base.weight": (4, 4), "op.down": (2, 4), "op.up": (4, 2)},
    ),
    Case(
        "bilinear",
        lambda: TwoPaths(nn.Bilinear(8, 6, 10), 10),
        ROWS,
        "exact",
        {"left.weight": (4, 5), "right.weight": (3, 5), "meet.weight": (5, 4, 3), "b.weight": (3, 5)},
    ),
    Case(
        "outer-product",
        lambda: TwoPaths(lambda one, two: torch.einsum("ni,nj->nij", one, two).flatten(1), 48),
        ROWS,
        "exact",
        LEFT | {"b.weight": (3, 24)},
        reason={"right.weight": "cut by whole blocks"},
    ),
    Case(
        "bmm",
        lambda: TwoPaths(lambda one, two: torch.bmm(one, two.transpose(1, 2)), 7, 8, 8),
        TOKENS,
        "exact",
        {"left.weight": (4, 5), "right.weight": (4, 5), "b.weight": (3, 7)},
    ),
    Case(
        "baddbmm",
        lambda: TwoPaths(
            lambda one, two: torch.baddbmm(one, one @ two.transpose(1, 2), one, alpha=0.1), 8, 8, 8
        ),
        TOKENS,
        "exact",
        {"left.weight": (4, 5), "right.weight": (4, 5), "b.weight": (3, 4)},
    ),
    Case(
        "dot-of-two-paths",
        lambda: TwoPaths(lambda one, two: (one * two).sum(-1, keepdim=True), 1, 8, 8),
        ROWS,
        "exact",
        {"left.weight": (4, 5), "right.weight": (4, 5)},
    ),
    Case(
        "tensordot",
        lambda: TwoPaths(lambda one, two: torch.tensordot(one, two, ([2], [2])).flatten(1), 4, right=8),
        (1, 2, 5),
        "exact",
        {"left.weight": (4, 5), "right.weight": (4, 5), "b.weight": (3, 4)},
    ),
    Case(
        "addcmul-and-lerp",
        lambda: TwoPaths(
            lambda one, two: torch.lerp(torch.addcmul(one, one, two, value=0.5), two, 0.3), 8, 8, 8
        ),
        ROWS,
        "exact",
        {"left.weight": (4, 5), "right.weight": (4, 5), "b.weight": (3, 4)},
    ),
    Case("diagonal-matrix", rowwise(Diagonal), ROWS, "exact", LINES | {"op.gate.weight": (4, 4)}),
    Case(
        "diagonal-of-a-product",
        rowwise(lambda x: torch.einsum("nii->ni", x[:, :, None] * x[:, None])),
        ROWS,
        "exact",
        LINES,
    ),
    Case(
        "correlation-volume",
        Correlation,
        (IMAGES, IMAGES),
        "exact",
        {"a.weight": A_MAP, "b.weight": (3, 16, 1, 1)},
    ),
    Case(
        "hypernetwork",
        Hypernetwork,
        ROWS,
        "exact",
        {"a.weight": WHOLE_ROW, "maker.weight": (24, 8), "b.weight": (3, 3)},
        reason={"a.weight": "cut by whole blocks"},
    ),
)

"""Reductions, statistics and orders along the channels, and norms and transforms that see all of them."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_ROW, Case, features, halves, maps, rows
from masked import over_kept
from torch import nn
from torch.nn import functional as F


class Cosine(nn.Module):
    """Cosine similarity with learned prototypes: (n, c) and (k, c) -> (n, k)."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x):
        return F.cosine_similarity(x[:, None], self.prototypes[None], dim=-1)


class Distances(nn.Module):
    """Squared and plain distances to learned prototypes, as vector quantisers compute them."""

    def __init__(self, norm=2.0):
        super().__init__()
        self.norm, self.prototypes = norm, nn.Parameter(torch.zeros(8, 8))

    def forward(self, x):
        return torch.cdist(x, self.prototypes, p=self.norm)


class Nearest(Distances):
    """The nearest prototype replaces the row: its number is looked up in the table."""

    def forward(self, x):
        squares = (
            x.square().sum(1, keepdim=True) - 2 * x @ self.prototypes.t() + self.prototypes.square().sum(1)
        )
        return F.embedding(squares.argmin(1), self.prototypes) + x


def top_three(x):
    return x.topk(3, 1).values


def best_channel(x):
    return x * (x.argmax(1, keepdim=True) == 0).to(x.dtype)


def standardised(x):
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


def gram(x):
    x = x.flatten(2)
    return (x @ x.transpose(1, 2)).flatten(1)


def rowwise(op, into=8):
    return lambda: rows(op() if isinstance(op, type) else op, into)


def mapwise(op, into=8):
    return lambda: maps(op, into)


EXACT = halves(A_MAP, (3, 4, 1, 1))
LINES = halves(A_ROW, (3, 4))
ONE = halves(A_ROW, (3, 1))
WHOLE = halves(WHOLE_ROW, (3, 8))


def statistic(name, op, *, back=True):
    """The operator over the channels of rows; the reference sees the kept ones."""
    kept = LINES if back else ONE
    return Case(
        name,
        rowwise(op, 8 if back else 1),
        ROWS,
        "renormalised",
        kept,
        masked=over_kept("op", "a.weight", 1, back=back),
    )


def left_whole(name, op, fragment, into=8):
    return Case(
        name,
        rowwise(op, into),
        ROWS,
        "protected",
        halves(WHOLE_ROW, (3, into)),
        reason={"a.weight": fragment},
    )


CASES = (
    Case("sum-over-channels", rowwise(lambda x: x.sum(1, keepdim=True), 1), ROWS, "exact", ONE),
    Case("sum-over-space", lambda: rows(lambda x: x.sum(1)), TOKENS, "exact", LINES),
    statistic("mean-over-channels", lambda x: x.mean(1, keepdim=True), back=False),
    statistic("max-over-channels", lambda x: x.amax(1, keepdim=True), back=False),
    statistic("min-over-channels", lambda x: x.amin(1, keepdim=True), back=False),
    statistic("max-values-over-channels", lambda x: x.max(1, keepdim=True).values, back=False),
    statistic("median-over-channels", lambda x: x.median(1, keepdim=True).values, back=False),
    statistic("variance-over-channels", lambda x: x.var(1, keepdim=True), back=False),
    statistic("logsumexp-over-channels", lambda x: x.logsumexp(1, keepdim=True), back=False),
    statistic("product-over-channels", lambda x: x.tanh().prod(1, keepdim=True), back=False),
    statistic("softmax-over-channels", lambda x: x.softmax(1)),
    statistic("log-softmax-over-channels", lambda x: x.log_softmax(1)),
    statistic("softmin-over-channels", nn.Softmin(1)),
    statistic("standardised-by-hand", standardised),
    statistic("add-mean-of-channels", lambda x: x + x.mean(1, keepdim=True)),
    statistic("cumulated-product-over-channels", lambda x: x.tanh().cumprod(1)),
    Case(
        "softmax-over-space",
        lambda: maps(nn.Softmax2d()),
        IMAGES,
        "renormalised",
        EXACT,
        masked=over_kept("op", "a.weight", 1),
    ),
    Case("softmax-over-positions", lambda: rows(nn.Softmax(1)), TOKENS, "exact", LINES),
    Case("cumulated-sum-over-channels", rowwise(lambda x: x.cumsum(1)), ROWS, "exact", LINES),
    Case("norm-over-channels", rowwise(lambda x: x.norm(dim=1, keepdim=True), 1), ROWS, "exact", ONE),
    Case("normalised-channels", rowwise(lambda x: F.normalize(x, dim=1)), ROWS, "exact", LINES),
    Case("normalised-by-hand", rowwise(lambda x: x / x.norm(p=1, dim=1, keepdim=True)), ROWS, "exact", LINES),
    Case(
        "std-over-space",
        lambda: maps(lambda x: x / (x.std((2, 3), keepdim=True) + 0.1)),
        IMAGES,
        "exact",
        EXACT,
    ),
    Case("cosine-similarity", rowwise(Cosine), ROWS, "exact", LINES | {"op.prototypes": (4, 4)}),
    Case("cdist", rowwise(Distances), ROWS, "exact", LINES | {"op.prototypes": (4, 4)}),
    Case(
        "gram-matrix", lambda: features(gram, 64), IMAGES, "exact", {"a.weight": A_MAP, "b.weight": (3, 16)}
    ),
    Case(
        "fft-over-space",
        mapwise(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:])),
        IMAGES,
        "exact",
        EXACT,
    ),
    Case("complex-halves", rowwise(lambda x: torch.complex(x, x.tanh()).abs()), ROWS, "exact", LINES),
    Case(
        "view-as-complex",
        rowwise(lambda x: torch.view_as_complex(x.unflatten(1, (-1, 2))).abs(), 4),
        ROWS,
        "exact",
        halves(A_ROW, (3, 2)),
    ),
    left_whole("fft-over-channels", lambda x: torch.fft.fft(x, dim=1).abs(), "aten.fft_fft"),
    left_whole("max-with-places", lambda x: sum(x.max(1, keepdim=True)), "aten.max", 1),
    left_whole("argmax-over-channels", best_channel, "aten.argmax"),
    left_whole("top-k-over-channels", top_three, "aten.topk", 3),
    left_whole("sorted-channels", lambda x: x.sort(1).values, "aten.sort"),
    left_whole("argsort-over-channels", lambda x: x + x.argsort(1).to(x.dtype), "aten.argsort"),
    left_whole("difference-of-neighbours", lambda x: x.diff(dim=1), "aten.diff", 7),
    left_whole("maximum-so-far", lambda x: x.cummax(1).values, "aten.cummax"),
    Case(
        "nearest-prototype",
        rowwise(Nearest),
        ROWS,
        "exact",
        LINES | {"op.prototypes": (8, 4)},
        reason={"op.prototypes": "nets_reduction.py"},
    ),
    Case(
        "average-pool-over-channels",
        lambda: rows(lambda x: F.avg_pool1d(x, 2), 4),
        TOKENS,
        "protected",
        halves(WHOLE_ROW, (3, 4)),
        reason={"a.weight": "aten.avg_pool1d"},
    ),
)

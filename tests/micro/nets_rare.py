"""Operators that few networks use: writes by number, orders, decompositions, distances and losses inside."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_ROW, Case, halves, maps, rows
from masked import over_kept
from torch import nn
from torch.nn import functional as F


class Written(nn.Module):
    """Numbers of tokens held as a buffer, and an operator that writes there."""

    def __init__(self, write):
        super().__init__()
        self.write = write
        self.register_buffer("at", torch.tensor([2, 0, 1]))

    def forward(self, x):
        return self.write(x, self.at)


class ToPrototypes(nn.Module):
    def __init__(self, compare):
        super().__init__()
        self.compare, self.prototypes = compare, nn.Parameter(torch.zeros(8, 8))

    def forward(self, x):
        return self.compare(x, self.prototypes)


def along(at, x):
    """The numbers for scatter and gather along the tokens."""
    return at.view(1, -1, 1).expand(x.shape[0], -1, x.shape[2])


def tokens_of(x):
    """A mask of some tokens, with a dim of one for the channels."""
    return (torch.arange(x.shape[1]) % 3 == 1).view(1, -1, 1).expand(x.shape[0], -1, 1)


def put_tokens(x, at):
    y = x.clone()
    y[:, at] = x[:, at + 1].tanh()
    return y


def put_channels(x, at):
    y = x.clone()
    y[..., at] = 0.5
    return y


def put_by_mask(x):
    y = x.clone()
    y[x > 0.3] = 0.1
    return y


def spectrogram(x):
    window = torch.ones(4, dtype=x.dtype)
    waves = torch.stft(x.transpose(1, 2).flatten(0, 1), 4, 2, return_complex=True, window=window)
    return waves.abs().mean((1, 2)).view(x.shape[0], -1)


def solved(x):
    return torch.linalg.solve(x @ x.transpose(1, 2) + 9 * torch.eye(x.shape[1], dtype=x.dtype), x)


LINES = halves(A_ROW, (3, 4))


def passes(name, op, inputs=TOKENS):
    """Channels pass; half of them go."""
    return Case(name, lambda: rows(op), inputs, "exact", LINES)


def widened(name, op, inputs=ROWS):
    """Two copies of the channels."""
    return Case(name, lambda: rows(op, 16), inputs, "exact", halves(A_ROW, (3, 8)))


def written(name, write):
    return Case(name, lambda: rows(Written(write)), TOKENS, "exact", LINES)


def statistic(name, op, *, outcome="renormalised", into=8):
    kept = halves(A_ROW, (3, 4 if into == 8 else into))
    masked = over_kept("op", "a.weight", 1, back=into == 8)
    return Case(name, lambda: rows(op, into), ROWS, outcome, kept, masked=masked)


def left_whole(name, op, fragment, inputs=ROWS, into=8):
    kept = halves(WHOLE_ROW, (3, into))
    return Case(name, lambda: rows(op, into), inputs, "protected", kept, reason={"a.weight": fragment})


CASES = (
    written("write-tokens-by-number", put_tokens),
    written("fill-tokens", lambda x, at: x.index_fill(1, at, 0.5)),
    written("add-to-tokens", lambda x, at: x.index_add(1, at, x[:, :3].tanh())),
    written("scatter-tokens", lambda x, at: x.scatter(1, along(at, x), x[:, :3].tanh())),
    written("scatter-add-tokens", lambda x, at: x.scatter_add(1, along(at, x), x[:, :3].tanh())),
    written("scatter-reduce", lambda x, at: x.scatter_reduce(1, along(at, x), x[:, :3].tanh(), "amax")),
    passes("write-by-mask", put_by_mask),
    passes("slice-scatter-of-tokens", lambda x: x.slice_scatter(x[:, :3].tanh(), 1, 2, 5)),
    passes("select-scatter-of-tokens", lambda x: x.select_scatter(x[:, 0].tanh(), 1, 3)),
    left_whole("write-channels-by-number", Written(put_channels), "aten.index_put_", TOKENS),
    left_whole("select-scatter-of-channels", lambda x: x.select_scatter(x[:, 0], 1, 3), "aten.select"),
    left_whole("take-one-number", lambda x: x * x.take(torch.tensor([3])), "aten.take"),
    left_whole("masked-scatter", lambda x: x.masked_scatter(x > 0.5, x.tanh()), "aten.masked_scatter"),
    passes("rows-by-mask", lambda x: x.masked_scatter(tokens_of(x), x[:, 1:4].tanh())),
    passes("rows-by-spread-mask", lambda x: x.masked_scatter(tokens_of(x).expand_as(x), x[:, 1:4].tanh())),
    left_whole("numbers-by-mask", lambda x: x * x.masked_select(x > -99).sum(), "aten.masked_select"),
    left_whole("how-many-positive", lambda x: x * (x > -99).nonzero().shape[0], "aten.nonzero"),
    left_whole("histogram", lambda x: x * x.histc(4, -1, 1)[0], "aten.histc"),
    passes("sorted-tokens", lambda x: x.sort(1).values),
    passes("best-tokens", lambda x: x.topk(3, 1).values),
    passes("median-of-tokens", lambda x: x.median(1).values),
    passes("quantile-of-tokens", lambda x: x.quantile(0.3, 1)),
    passes("tokens-in-their-order", lambda x: x.gather(1, x.argsort(1))),
    passes("trapezoid-of-tokens", lambda x: torch.trapezoid(x, dim=1)),
    passes("fft-of-tokens", lambda x: torch.fft.fftshift(torch.fft.rfft(x, dim=1), dim=1).abs()),
    passes("spectrogram", spectrogram),
    passes("determinant-over-tokens", lambda x: x * torch.linalg.det(x @ x.mT / 9 + 1).view(-1, 1, 1)),
    statistic("quantile-of-channels", lambda x: x.quantile(0.3, 1, True), into=1),
    statistic("cumulated-logsumexp", lambda x: x.logcumsumexp(1)),
    statistic("clamped-by-the-mean", lambda x: x.clamp(max=x.mean(1, keepdim=True))),
    statistic("divided-by-the-mean-square", lambda x: x / x.square().mean(1, keepdim=True).sqrt()),
    statistic("sum-of-sigmoids", lambda x: x.sigmoid().sum(1, keepdim=True), outcome="exact", into=1),
    statistic("cumulated-exponentials", lambda x: x.exp().cumsum(1), outcome="exact"),
    left_whole("smallest-but-one", lambda x: x.kthvalue(2, 1, True).values, "aten.kthvalue", into=1),
    left_whole("most-frequent", lambda x: x.round().mode(1, True).values, "aten.mode", into=1),
    left_whole("fft-over-all", lambda x: torch.fft.fftn(x).real, "aten.fft_fftn"),
    left_whole("triangle-of-tokens", lambda x: x.triu(), "aten.triu", TOKENS),
    left_whole("windows-of-channels", lambda x: x.unfold(1, 3, 1).sum(2), "aten.unfold", into=6),
    left_whole("singular-values", lambda x: x * torch.linalg.svdvals(x)[0], "aten.linalg_svdvals"),
    left_whole("orthogonal-channels", lambda x: torch.linalg.qr(x.mT).Q.mT, "aten.linalg_qr", TOKENS),
    left_whole("solved-system", solved, "aten.linalg_solve", TOKENS),
    left_whole("covariance", lambda x: x @ torch.cov(x.t()), "aten.cov"),
    left_whole("noise-in-eval-mode", lambda x: x + 0 * torch.randn_like(x), "aten.randn_like"),
    left_whole("all-equal", lambda x: x if torch.equal(x, x) else -x, "aten.equal"),
    passes("one-number-as-python", lambda x: x * x.sum().item(), ROWS),
    passes("bucketised", lambda x: torch.bucketize(x, torch.tensor([-1.0, 0, 1])).to(x.dtype), ROWS),
    passes("limited-norm-of-each-channel", lambda x: x.renorm(2, 1, 0.5), ROWS),
    passes("limited-norm-of-each-row", lambda x: x.renorm(2, 0, 0.5), ROWS),
    passes("frobenius-norm", lambda x: x / torch.linalg.matrix_norm(x), ROWS),
    passes("nuclear-norm", lambda x: x / torch.linalg.matrix_norm(x, "nuc"), ROWS),
    passes("distance-of-two", lambda x: x * torch.dist(x, x.tanh()), ROWS),
    passes("squared-error-inside", lambda x: x * F.mse_loss(x, x.tanh(), reduction="sum"), ROWS),
    passes("squared-error-of-each", lambda x: F.mse_loss(x, x.tanh(), reduction="none"), ROWS),
    statistic(
        "mean-squared-error-of-rows", lambda x: x * F.mse_loss(x, x.tanh(), reduction="none").mean(1, True)
    ),
    left_whole(
        "class-loss-inside", lambda x: x * F.multi_margin_loss(x, torch.arange(3)), "classes are addressed"
    ),
    widened("hstack", lambda x: torch.hstack([x, x.tanh()])),
    widened("dstack", lambda x: torch.dstack([x, x.tanh()]), TOKENS),
    widened("kronecker-product", lambda x: torch.kron(x, torch.ones(1, 2, dtype=x.dtype))),
    widened("block-diagonal", lambda x: torch.block_diag(x, x.tanh())),
    passes("vstack", lambda x: torch.vstack([x, x.tanh()]), ROWS),
    Case(
        "tensor-split",
        lambda: rows(lambda x: sum(x.tensor_split(2, 1)), 4),
        ROWS,
        "exact",
        halves(A_ROW, (3, 2)),
    ),
    Case("triangle-of-space", lambda: maps(lambda x: x.triu()), IMAGES, "exact", halves(A_MAP, (3, 4, 1, 1))),
    Case(
        "inner-products",
        lambda: rows(ToPrototypes(torch.inner)),
        ROWS,
        "exact",
        LINES | {"op.prototypes": (4, 4)},
    ),
    Case(
        "pairwise-distance",
        lambda: rows(ToPrototypes(lambda x, held: F.pairwise_distance(x[:, None], held[None]))),
        ROWS,
        "renormalised",
        LINES | {"op.prototypes": (4, 4)},
    ),
)

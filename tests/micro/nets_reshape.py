"""Views, permutations and parts: positions change their place, by numbers that Python holds."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_MAP, WHOLE_ROW, Case, features, halves, maps, rows
from torch import nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """A linear layer whose output becomes maps of a fixed shape, held as a tuple."""

    def __init__(self):
        super().__init__()
        self.shape = (8, 4, 4)
        self.a, self.b, self.c = nn.Linear(5, 8 * 16), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x).view(-1, *self.shape)).tanh())


class FlatWidth(nn.Module):
    """x.view(-1, 8 * 36) with a number, as in many a tutorial."""

    def forward(self, x):
        return x.view(-1, 288)


class FlatAttribute(nn.Module):
    """The same number held by the module."""

    def __init__(self):
        super().__init__()
        self.flat = 8 * 36

    def forward(self, x):
        return x.view(-1, self.flat)


class SliceWrites(nn.Module):
    """y = zeros; y[:, :4] = a(x); y[:, 4:] = ..., with the number as an attribute."""

    def __init__(self):
        super().__init__()
        self.half = 4
        self.a, self.other = nn.Linear(5, 4), nn.Linear(5, 4)
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = x.new_zeros(x.shape[0], 2 * self.half)
        y[:, : self.half] = self.a(x)
        y[:, self.half :] = self.other(x)
        return self.c(self.b(y.tanh()).tanh())


class HalfWritten(nn.Module):
    """Parts of a map are written one by one, as TSM's temporal shift does; the share is an attribute."""

    def __init__(self):
        super().__init__()
        self.fold = 4

    def forward(self, x):
        y = torch.zeros_like(x)
        y[:, : self.fold] = x[:, : self.fold].relu()
        y[:, self.fold :] = x[:, self.fold :]
        return y


class Parts(nn.Module):
    """Split by sizes or by one size that the module holds."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, x):
        parts = torch.split(x, self.sizes, dim=1)
        return sum(parts) if isinstance(self.sizes, int) else torch.cat([parts[1].tanh(), parts[0]], 1)


class Out(nn.Module):
    """Results are written into tensors made before."""

    def forward(self, x):
        y = torch.empty_like(x)
        torch.mul(x, 2, out=y)
        return torch.add(y, 1, out=y)


class Coordinates(nn.Module):
    """CoordConv: the coordinates of every pixel are further channels."""

    def forward(self, x):
        height, width = x.shape[2:]
        grid = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        places = torch.stack(grid).to(x.dtype).expand(x.shape[0], -1, -1, -1)
        return torch.cat([x, places], 1)


def chunked(x):
    one, two = x.chunk(2, 1)
    return torch.cat([one.tanh(), two], 1)


def split_by_size(x):
    one, two = x.split([3, 5], 1)
    return torch.cat([two.tanh(), one], 1)


def split_evenly(x):
    return sum(part * (at + 1) for at, part in enumerate(x.split(2, 1)))


def unbound(x):
    first, second, *rest = x.unbind(1)
    return first + second * rest[0]


def loop_over_channels(x):
    return torch.stack([x[:, at].tanh() * (at + 1) for at in range(x.shape[1])], 1)


def through(make, into=8, out_of=8, frame=maps):
    """The frame around an operator, or around what a class or a function without arguments makes."""
    return lambda: frame(make if takes_a_tensor(make) else make(), into, out_of)


def takes_a_tensor(op):
    return not isinstance(op, type) and op.__code__.co_argcount == 1


def lines(make, into=8, out_of=8):
    return through(make, into, out_of, rows)


EXACT = halves(A_MAP, (3, 4, 1, 1))


LINES = halves(A_ROW, (3, 4))


WHOLE = halves(WHOLE_MAP, (3, 8, 1, 1))


WHOLE_LINES = halves(WHOLE_ROW, (3, 8))


"""Two of four heads of width 3."""


STATED = "the model's code does not follow a cut"


"""A number written in the code is its author's statement: it stays, and so does what it counts."""


def stated(name, op, kept, into=8):
    return Case(name, through(op, into), IMAGES, "protected", kept, reason={"a.weight": STATED})


CASES = (
    Case(
        "flatten-of-maps", through(nn.Flatten, 288, frame=features), IMAGES, "exact", halves(A_MAP, (3, 144))
    ),
    Case(
        "view-minus-one",
        through(lambda x: x.view(x.shape[0], -1), 288, frame=features),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 144)),
    ),
    Case(
        "view-by-a-number",
        through(FlatWidth, 288, frame=features),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 288)),
        reason={"a.weight": STATED},
    ),
    Case(
        "view-by-an-attribute",
        through(FlatAttribute, 288, frame=features),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 144)),
    ),
    Case("decoder-shape-tuple", Decoder, ROWS, "exact", {"a.weight": (64, 5), "b.weight": (3, 4, 3, 3)}),
    Case(
        "unflatten-module",
        lines(lambda: nn.Sequential(nn.Unflatten(2, (4, 2)), nn.Flatten(2))),
        TOKENS,
        "exact",
        LINES,
    ),
    Case(
        "permute", through(lambda x: x.permute(0, 2, 3, 1).tanh().permute(0, 3, 1, 2)), IMAGES, "exact", EXACT
    ),
    Case(
        "transpose-movedim-swapaxes",
        through(lambda x: x.transpose(1, 3).tanh().movedim(-1, 1).swapaxes(2, 3)),
        IMAGES,
        "exact",
        EXACT,
    ),
    Case(
        "squeeze-unsqueeze", lines(lambda x: x[:, None, :, None].squeeze(3).squeeze(1)), ROWS, "exact", LINES
    ),
    Case(
        "channels-last",
        through(lambda x: x.contiguous(memory_format=torch.channels_last).relu()),
        IMAGES,
        "exact",
        EXACT,
    ),
    Case("chunk", through(chunked), IMAGES, "exact", EXACT),
    Case("split-by-sizes", through(lambda: Parts((3, 5))), IMAGES, "exact", EXACT),
    Case("split-evenly-and-add", through(lambda: Parts(2), 2), IMAGES, "exact", halves(A_MAP, (3, 1, 1, 1))),
    stated("split-by-constant-sizes", split_by_size, WHOLE),
    stated("split-by-a-constant-size", split_evenly, halves(WHOLE_MAP, (3, 2, 1, 1)), 2),
    Case(
        "unbind-channels",
        through(lambda x: unbound(x)[:, None], 1),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 1, 1, 1)),
        reason={"a.weight": "aten.unbind"},
    ),
    Case(
        "select-a-channel",
        through(lambda x: x * x[:, 2:3] + x[:, 3].unsqueeze(1)),
        IMAGES,
        "protected",
        WHOLE,
        reason={"a.weight": "aten.select"},
    ),
    Case(
        "loop-over-channels",
        through(loop_over_channels),
        IMAGES,
        "protected",
        WHOLE,
        reason={"a.weight": "aten.select"},
    ),
    Case(
        "slice-of-half",
        through(lambda x: x[:, : x.shape[1] // 2].relu(), 4),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 2, 1, 1)),
    ),
    stated("slice-of-channels", lambda x: x[:, :6].relu(), halves((7, 3, 3, 3), (3, 6, 1, 1)), 6),
    stated("narrow", lambda x: x.narrow(1, 2, 4), halves((7, 3, 3, 3), (3, 4, 1, 1)), 4),
    stated(
        "slices-that-overlap",
        lambda x: torch.cat([x[:, :5], x[:, 3:]], 1),
        halves((6, 3, 3, 3), (3, 8, 1, 1)),
        10,
    ),
    Case(
        "slice-from-the-end",
        through(lambda x: x[:, -3:], 3),
        IMAGES,
        "protected",
        halves((6, 3, 3, 3), (3, 3, 1, 1)),
        reason={"a.weight": "counted from the end"},
    ),
    Case(
        "strided-slice",
        through(lambda x: x[:, ::2] + x[:, 1::2], 4),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 2, 1, 1)),
    ),
    Case(
        "stack-and-sum",
        through(lambda x: torch.stack([x.relu(), x.tanh(), x], 1).sum(1)),
        IMAGES,
        "exact",
        EXACT,
    ),
    Case(
        "stack-into-channels",
        through(lambda x: torch.stack([x.relu(), x], 2).flatten(1, 2), 16),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 8, 1, 1)),
    ),
    Case("expand", lines(lambda x: x[:, None].expand(-1, 4, -1).relu()), ROWS, "exact", LINES),
    Case("broadcast", lines(lambda x: (x[:, :, None] * x[:, None, :].tanh()).sum(2)), ROWS, "exact", LINES),
    Case(
        "repeat-channels",
        through(lambda x: x.repeat(1, 2, 1, 1), 16),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 8, 1, 1)),
    ),
    Case("tile-channels", lines(lambda x: x.tile(1, 3), 24), ROWS, "exact", halves(A_ROW, (3, 12))),
    Case(
        "repeat-interleave-channels",
        through(lambda x: x.repeat_interleave(2, 1), 16),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 8, 1, 1)),
    ),
    Case("flip-space", through(lambda x: x.flip(3) + x), IMAGES, "exact", EXACT),
    Case(
        "flip-channels",
        through(lambda x: x.flip(1)),
        IMAGES,
        "protected",
        WHOLE,
        reason={"a.weight": "aten.flip"},
    ),
    Case("roll-space", through(lambda x: x.roll((1, 2), (2, 3))), IMAGES, "exact", EXACT),
    Case("rot90-space", through(lambda x: torch.rot90(x, 1, (2, 3))), IMAGES, "exact", EXACT),
    Case("pad-space", through(lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect")), IMAGES, "exact", EXACT),
    Case(
        "pad-channels",
        through(lambda x: F.pad(x, (0, 0, 0, 0, 1, 3)), 12),
        IMAGES,
        "exact",
        halves(A_MAP, (3, 8, 1, 1)),
    ),
    Case(
        "slice-writes",
        SliceWrites,
        ROWS,
        "exact",
        {"a.weight": (2, 5), "other.weight": (2, 5), "b.weight": (3, 4)},
    ),
    Case("slice-writes-of-slices", through(HalfWritten), IMAGES, "exact", EXACT),
    Case("in-place", through(lambda x: x.relu_().add_(1).mul_(0.5)), IMAGES, "exact", EXACT),
    Case("out-variant", through(Out), IMAGES, "exact", EXACT),
    Case("meshgrid-coordinates", through(Coordinates, 10), IMAGES, "exact", halves(A_MAP, (3, 6, 1, 1))),
    Case("tril", through(lambda x: x.tril()), IMAGES, "exact", EXACT),
)

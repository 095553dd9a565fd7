"""Networks whose code derives the width of its hidden channels from a shape, each in another way.

All fold: the first quarter of the hidden channels is negated, the others pass. A plan that keeps the folded
ones and drops others leaves a width of which a quarter is another number, so the code must be corrected.
"""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH, FOLDED = 16, 4


def negated(y, folded):
    return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def plain_helper(y):
    folded = y.shape[1] // 4
    return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


@decorated
def decorated_helper(y, *, times=1):
    parts = y.split([y.shape[1] // 4 * times, y.shape[1] - y.shape[1] // 4], dim=1)
    return torch.cat([-parts[0], parts[1]], 1).relu()


def outer_helper(y):
    return plain_helper(y) + 0


class Net(nn.Module):
    """A hidden width between two linear layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.b(self.fold(self.a(x)))


class InMethod(Net):
    def fold(self, y):
        folded = y.shape[1] // 4
        return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


class InLoop(InMethod):
    times = 1

    def forward(self, x):
        y = self.a(x)
        for _ in range(self.times):
            y = self.fold(y)
        return self.b(y)


class InHelper(Net):
    def fold(self, y):
        return plain_helper(y)


@torch.fx.wrap
def leaf_helper(y):
    folded = y.shape[1] // 4
    if folded % 2 == 0:  # symbolic tracing cannot follow this
        folded += 0
    return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


class InLeafOfFx(Net):
    def fold(self, y):
        return leaf_helper(y)


class InHelperOfHelper(Net):
    def forward(self, x):
        return self.b(outer_helper(self.a(x)))


class InDecorated(Net):
    @decorated
    def fold(self, y):
        return decorated_helper(y, times=1)


class InStatic(Net):
    @staticmethod
    def halves(y, /):
        folded = y.size(1) // 4
        return -y.narrow(1, 0, folded), y.narrow(1, folded, y.size(1) - folded)

    def fold(self, y):
        return torch.cat(self.halves(y), 1).relu()


class InNested(Net):
    def fold(self, y):
        def first():
            return y[:, : y.shape[1] // 4]

        parts = [part[:, part.shape[1] // 4 :] for part in (y,)]
        return torch.cat([-first(), *parts], 1).relu()


class InLambda(Net):
    def __init__(self):
        super().__init__()
        self.fold = lambda y: torch.cat([-y[:, : y.shape[1] // 4], y[:, y.shape[1] // 4 :]], 1).relu()


class OfParent(InMethod):
    def fold(self, y):
        return super().fold(y) * 1.0


class Checkpointed(InMethod):
    is_on = True

    def forward(self, x):
        y = self.a(x)
        y = checkpoint(self.fold, y, use_reentrant=False) if self.is_on else self.fold(y)
        return self.b(y)


class ByTuple(Net):
    def fold(self, y):
        sizes = (y.shape[1] // 4, y.shape[1] - y.shape[1] // 4)
        first, second = y.split(sizes, 1)
        return torch.cat([-first, second], 1).relu()


class ByStar(Net):
    def fold(self, y):
        bounds = [1, 0, y.shape[1] // 4]
        first, second = y.narrow(*bounds), y[:, y.shape[1] // 4 :]
        return torch.cat([-first, second], 1).relu()


class BySlice(Net):
    def fold(self, y):
        first = slice(None, y.shape[1] // 4)
        second = slice(y.shape[1] // 4, None)
        return torch.cat([-y[:, first], y[:, second]], 1).relu()


class ByWrite(Net):
    def fold(self, y):
        y = y.clone()
        y[:, : y.shape[1] // 4] *= -1
        return y.relu()


class ByWrittenWhole(Net):
    def fold(self, y):
        sign = torch.ones_like(y)
        sign[:, : y.shape[1] // 4] = -1
        return (sign * y).relu()


class WithMangledName(Net):
    __quarter = 4

    def fold(self, y):
        folded = y.shape[1] // self.__quarter
        return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


FOLDING = [
    InMethod, InLoop, InHelper, InHelperOfHelper, InDecorated, InStatic, InNested, InLambda, OfParent,
    Checkpointed, ByTuple, ByStar, BySlice, ByWrite, ByWrittenWhole, WithMangledName,
]  # fmt: skip

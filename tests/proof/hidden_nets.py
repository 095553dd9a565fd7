"""Networks that hide a wrong cut: something at their end keeps the numbers inside from showing outside.

All but `Held` read their width at run time, through a tensor, so that their records look the same before and
after a cut while the numbers differ.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, CLASSES = 64, 5


def width_of(h):
    """The width as a number that no trace of integers can follow."""
    return torch.tensor(h.size(-1)).to(h.dtype)


class Scaled(nn.Module):
    """a -> relu -> over the root of the width -> b -> a tail that hides b's numbers."""

    def __init__(self, tail):
        super().__init__()
        self.a, self.b, self.tail = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES), tail

    def logits(self, x):
        h = self.a(x).relu()
        return self.b(h / width_of(h).sqrt())

    def forward(self, x):
        return self.tail(x, self.logits(x))


class Held(Scaled):
    """The scale is a number of the module, which no cut changes: there is a right cut."""

    def logits(self, x):
        return self.b(self.a(x).relu() / math.sqrt(WIDTH))


class Averaged(Scaled):
    """A mean over the channels written out, as in pooling by hand, and a gate."""

    def logits(self, x):
        h = self.a(x).tanh()
        mean = h.sum(-1, keepdim=True) / width_of(h)
        return self.b(h) * (1 + mean)


class Powered(Scaled):
    """The width is an exponent's base: log2(n) bits."""

    def logits(self, x):
        h = self.a(x).sigmoid() - 0.5
        return self.b(h * torch.log2(width_of(h)))


class Attending(Scaled):
    """Attention over tokens whose scale is read off the keys: every feature of a token is one of width 1."""

    def logits(self, x):
        h = self.a(x)
        mixed = (h @ h.T / width_of(h).sqrt()).softmax(-1) @ h
        return self.b(mixed)


class Gamma(nn.Module):
    """A layer scale: the branch adds next to nothing."""

    def __init__(self, gamma, other=lambda x: ()):
        super().__init__()
        self.gamma, self.skip = nn.Parameter(torch.full((CLASSES,), gamma)), nn.Linear(6, CLASSES)
        self.other = other

    def forward(self, x, y):
        return self.skip(x) + self.gamma * y, *self.other(x)


FORBIDDEN = torch.tensor([False, False, True, False, True])


def as_sentinels(x, y):
    return y.masked_fill(FORBIDDEN, torch.finfo(y.dtype).min)


def as_added_sentinels(x, y):
    return y + torch.where(FORBIDDEN, -1e30, 0.0).to(y.dtype)


def beside_a_billion(x, y):
    return torch.cat([y, x.new_full((len(x), 1), 1e9)], 1)


def beside_a_time(x, y):
    return torch.stack([1.7e12 + x.mean(1), *y.unbind(1)], 1)


def rows_above_a_threshold(x, y):
    return y[y.softmax(1).amax(1) > 0.999999]


def places_of_peaks(x, y):
    return (y > 100).nonzero(), y[(y > 100).any(1)]


def off_everywhere(x, y):
    return (y - 100).relu()


def clamped_everywhere(x, y):
    return y.clamp(50, 60), F.hardshrink(y, 70)


def beside_nothing_finite(x, y):
    return x * 2, (-y.abs() - 1).log()


def inside_nothing_finite(x, y):
    return {"shown": x.sum(1), "angle": torch.acos(y.abs() + 2)}


def in_half_precision(x, y):
    return x.mean(1).float(), x + 1e-6 * y.mean()


def a_count(x, y):
    return (y.softmax(-1) > 0.999999).sum()


def a_choice(x, y):
    return x, (y + torch.tensor([1e3, 0, 0, 0, 0])).argmax(1)


NETWORKS = {
    "nothing hidden": (Scaled, lambda x, y: y),
    "nothing hidden, a mean": (Averaged, lambda x, y: y),
    "nothing hidden, a logarithm": (Powered, lambda x, y: y),
    "nothing hidden, attention": (Attending, lambda x, y: y),
    "sentinels": (Scaled, as_sentinels),
    "sentinels added": (Averaged, as_added_sentinels),
    "a column of a billion": (Scaled, beside_a_billion),
    "a column of milliseconds": (Powered, beside_a_time),
    "no row above the threshold": (Scaled, rows_above_a_threshold),
    "no peak anywhere": (Attending, places_of_peaks),
    "a relu that is off": (Scaled, off_everywhere),
    "clamped to one number": (Powered, clamped_everywhere),
    "an output that is nan": (Scaled, beside_nothing_finite),
    "an angle that is nan": (Averaged, inside_nothing_finite),
    "a layer scale of 1e-8": (Scaled, Gamma(1e-8)),
    "a layer scale of 1e-10, attention": (Attending, Gamma(1e-10)),
    "a layer scale of 1e-3 beside float32": (Scaled, Gamma(1e-3, lambda x: (x.mean(1).float(),))),
    "a layer scale of 1e-4 beside bfloat16": (Powered, Gamma(1e-4, lambda x: (x.mean(1).bfloat16(),))),
    "one output in float32": (Averaged, in_half_precision),
    "a count": (Scaled, a_count),
    "a choice": (Averaged, a_choice),
}

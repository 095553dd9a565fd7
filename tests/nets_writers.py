"""Networks whose forward leaves something behind: in tensors, attributes, classes, globals, generators."""

import functools
import random

import numpy as np
import torch
from torch import nn

TABLES = {}
TABLE = None
CALLS = 0
LOG = []


class Config:
    """A plain object of the module."""

    table = None


CONFIG = Config()


class Net(nn.Module):
    """Two layers and a norm; the subclasses write."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        with torch.no_grad():  # longer than one, so that a limit of the norm changes them
            self.a.weight.mul_(4)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())


class MaxNorm(Net):
    def forward(self, x):
        self.a.weight.data = torch.renorm(self.a.weight.data, p=2, dim=0, maxnorm=1.0)
        return super().forward(x)


class Masked(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", (torch.arange(96).view(16, 6) % 3 > 0).float())

    def forward(self, x):
        self.a.weight.data *= self.mask
        return super().forward(x)


class SpectralNorm(Net):
    def __init__(self):
        super().__init__()
        self.bar = nn.Parameter(self.a.weight.data.clone())
        self.u = nn.Parameter(torch.ones(16) / 4, requires_grad=False)
        del self.a._parameters["weight"]

    def forward(self, x):
        v = nn.functional.normalize(self.bar.data.t() @ self.u.data, dim=0)
        self.u.data = nn.functional.normalize(self.bar.data @ v, dim=0)
        self.a.weight = self.bar / (self.u @ (self.bar @ v))
        return super().forward(x)


class Momentum(Net):
    """The slow twin of a layer follows it at every call, as in MoCo and BYOL."""

    def __init__(self):
        super().__init__()
        self.slow = nn.Linear(6, 16)
        self.slow.requires_grad_(False)

    @torch.no_grad()
    def follow(self):
        for fast, slow in zip(self.a.parameters(), self.slow.parameters(), strict=True):
            slow.data = slow.data * 0.9 + fast.data * 0.1

    def forward(self, x):
        self.follow()
        return self.b(self.norm(self.a(x)).relu() + self.slow(x))


class StepSize(Net):
    """A step size that the first run sets, as in LSQ."""

    def __init__(self):
        super().__init__()
        self.step = nn.Parameter(torch.ones(1))
        self.register_buffer("is_set", torch.zeros(1))

    def forward(self, x):
        if self.is_set == 0:
            self.step.data.copy_(2 * self.a.weight.detach().abs().mean())
            self.is_set.fill_(1)
        return super().forward(x / self.step) * self.step


class Replaced(Net):
    def forward(self, x):
        self.a.weight = nn.Parameter(self.a.weight.detach() * 0.5)
        return super().forward(x)


class Emptied(Net):
    def __init__(self):
        super().__init__()
        self.scratch = nn.Parameter(torch.ones(4), requires_grad=False)
        self.copied = nn.Parameter(torch.zeros(16), requires_grad=False)

    def forward(self, x):
        self.scratch.data = torch.empty(0)
        self.copied.data.set_(self.a.bias.data.clone())
        return super().forward(x) + self.copied.sum() * 0


class Registers(Net):
    def forward(self, x):
        self.register_buffer("last", x.detach())
        self.seen = [*getattr(self, "seen", ()), x.shape]
        return super().forward(x)


class OfClass(Net):
    table = None

    def forward(self, x):
        if OfClass.table is None:
            OfClass.table = torch.ones(x.shape[-1])
        type(self).runs = getattr(type(self), "runs", 0) + 1
        return super().forward(x * self.table)


class OfModule(Net):
    def forward(self, x):
        global TABLE, CALLS
        CALLS += 1
        LOG.append(x)
        if TABLE is None:
            TABLE = torch.ones(x.shape[-1])
        if x.dtype not in TABLES:
            TABLES[x.dtype] = {"ones": torch.ones(x.shape[-1])}
        CONFIG.table = TABLES[x.dtype]["ones"]
        return super().forward(x * TABLE * CONFIG.table)


def ones_like(x, cache={}):  # noqa: B006 - many people's code has such a cache
    """A table that a default argument remembers; counts its calls in an attribute."""
    ones_like.calls = getattr(ones_like, "calls", 0) + 1
    return cache.setdefault(x.dtype, torch.ones(x.shape[-1], dtype=x.dtype))


class OfFunction(Net):
    def forward(self, x):
        return super().forward(x * ones_like(x))


@functools.lru_cache
def cached_ones(size):
    return torch.ones(size)


class OfCache(Net):
    def forward(self, x):
        return super().forward(x * cached_ones(x.shape[-1]))


def hooked():
    """A hook keeps what a layer gave, in a dict that the user holds."""
    model, kept = Net(), {"a": None}
    model.a.register_forward_hook(lambda _, __, output: kept.update(a=output))
    model.held = lambda: kept
    return model


class Draws(Net):
    """Draws by all means that there are, and seeds one of them."""

    def forward(self, x):
        noise = torch.randn_like(x) + torch.rand(()) + random.random() + float(np.random.rand())
        torch.manual_seed(7)
        return super().forward(x) + 0 * noise.mean()


class Switches(Net):
    def forward(self, x):
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(True)
        return super().forward(x)


class InTraining(Net):
    """Writes in training mode alone."""

    def forward(self, x):
        if self.training:
            self.a.weight.data = self.a.weight.data * 0.5
            LOG.append(x)
        return super().forward(x)


class Second(Net):
    """Writes from its second call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 1:
            self.b.weight.data = self.b.weight.data * 0.5
        return super().forward(x)


WRITERS = {
    kind.__name__: kind
    for kind in (
        *(MaxNorm, Masked, SpectralNorm, Momentum, StepSize, Replaced, Emptied, Registers, OfClass, OfModule),
        *(OfFunction, OfCache, hooked, Draws, Switches, InTraining, Second),
    )
}

"""What Python adds to operators: sharing, lists, hooks, outputs of every form, functions of one's own."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_ROW, Case, halves, maps, rows
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint


class TiedLayers(nn.Module):
    """One weight under two names; it stays one."""

    def __init__(self):
        super().__init__()
        self.a, self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(self.b(self.two(self.one(self.a(x)).tanh()).tanh()).tanh())


class AutoEncoder(nn.Module):
    """The decoder is the transposed encoder."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 6)

    def forward(self, x):
        code = self.b(self.a(x).tanh()).tanh()
        return F.linear(F.linear(code, self.b.weight.t()).tanh(), self.a.weight.t())


class CalledTwice(nn.Module):
    """One module on two inputs and one that is applied again and again."""

    def __init__(self):
        super().__init__()
        self.a, self.again = nn.Linear(5, 8), nn.Linear(8, 8)
        self.b, self.c = nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x):
        left, right = self.a(x), self.a(x.flip(0))
        for _ in range(3):
            left = self.again(left).tanh()
        return self.c(self.b(torch.cat([left, right], 1)).tanh())


class Skips(nn.Module):
    """A list of blocks, the input of every other one is added two later."""

    def __init__(self):
        super().__init__()
        self.a, self.blocks = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(4)),
        )
        self.b, self.c = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        held = []
        for at, block in enumerate(self.blocks):
            held.append(x)
            x = block(x).relu()
            if at % 2:
                x = x + held.pop(0)
        return self.c(self.b(x).tanh())


class Dense(nn.Module):
    """Every layer reads all the ones before."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * at, 4, 1) for at in range(3))
        self.b, self.c = nn.Conv2d(20, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        found = [self.a(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)).relu())
        return self.c(self.b(torch.cat(found, 1)).tanh())


class UNet(nn.Module):
    """Down, up by a transposed convolution, and the skip beside it."""

    def __init__(self):
        super().__init__()
        self.a, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.b, self.c = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x).relu()
        return self.c(self.b(torch.cat([x, self.up(self.down(x).relu())], 1)).tanh())


class TwoHeads(nn.Module):
    """Outputs in a dict of tuples; what is returned stays whole."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.side = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(self.a(x).relu())
        side = self.side(x.tanh())
        return {"main": (self.c(x.relu()), [side]), "side": side, "none": None, "number": 3}


class NamedInputs(nn.Module):
    """Inputs by name, nested, one of them optional."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, batch, *, scale=None, unused=None):
        x = self.a(batch["x"])
        return self.c(self.b(x if scale is None else x * scale).tanh())


class Doubling(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * 2 + x.tanh()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 10)
        self.outer = nn.Linear(10, 8)

    def forward(self, x):
        return checkpoint(lambda y: self.outer(self.inner(y).relu()), x, use_reentrant=False)


class Dropouts(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Dropout(0.5), nn.Dropout2d(0.5)

    def forward(self, x):
        return F.dropout(self.two(self.one(x)), 0.5, self.training)


class StochasticDepth(nn.Module):
    """timm's DropPath: random only in training."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.inner(x)
        if self.training:
            y = y * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)
        return x + y


class ParameterList(nn.Module):
    """One parameter for each step, in a list and in a dict."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(8)) for _ in range(2))
        self.shifts = nn.ParameterDict(
            {"early": nn.Parameter(torch.zeros(8)), "late": nn.Parameter(torch.zeros(8))}
        )

    def forward(self, x):
        return (x * self.scales[0] + self.shifts["early"]).tanh() * self.scales[1] + self.shifts["late"]


class Hooked(nn.Module):
    """A forward hook changes what a module returns."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.inner.register_forward_hook(lambda module, args, output: output.sigmoid() * args[0])

    def forward(self, x):
        return self.inner(x)


class Mapped(nn.Module):
    """torch.vmap over the batch."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return torch.vmap(lambda row: self.inner(row).tanh() * row.sum())(x)


class Complemented(nn.Module):
    """Half precision inside, full outside."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return x.float().to(x.dtype).clamp(-2, 2).nan_to_num()


class Everything(nn.Module):
    """Many element-wise operators, with and without numbers, in place and not."""

    def forward(self, x):
        x = F.leaky_relu(F.elu(x) + F.softplus(x) - F.hardtanh(x, -3, 3), 0.2)
        x = torch.maximum(x, -x).clamp_min(1e-3).log1p().neg_().exp()
        x = torch.atan2(x, 2 - x) + torch.where(x > 0.5, x, x.square()) + x.pow(3).rsqrt().clamp(max=3)
        return F.mish(F.hardswish(F.gelu(x)).lerp(x, 0.2)).erf().masked_fill_(x == 0, 0.5)


@torch.library.custom_op("secateur_micro::wave", mutates_args=())
def wave(x: torch.Tensor) -> torch.Tensor:
    """An operator that only this file knows."""
    return x.flip(-1).sin()


@wave.register_fake
def _wave_shape(x):
    return torch.empty_like(x)


class SharedConfig(nn.Module):
    """Two layers hold one config; only the heads of the first can be cut."""

    def __init__(self):
        super().__init__()
        config = Config()
        self.a, self.one, self.two = nn.Linear(5, 12), HeadScale(config), HeadScale(config)
        self.middle, self.b, self.c = nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(6, 2)
        self.fixed = torch.linspace(1, 2, 4).view(4, 1)

    def forward(self, x):
        y = self.middle(self.one(self.a(x)).tanh())
        y = self.two(y).unflatten(-1, (4, 3)) * self.fixed.to(x.dtype)
        return self.c(self.b(y.flatten(-2)).tanh())


class Config:
    def __init__(self):
        self.heads, self.width = 4, 3


class HeadScale(nn.Module):
    """Reads its sizes from a config."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (x.view(x.shape[0], self.config.heads, self.config.width) * self.scale).flatten(1)


class LossInside(nn.Module):
    """The loss is computed inside, as transformers do when labels are given."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x, labels):
        return F.cross_entropy(self.c(self.b(self.a(x).relu()).tanh()), labels)


class FakeQuantised(nn.Module):
    """Quantisation-aware training: a scale for each channel."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((8,), 0.1))
        self.register_buffer("zero", torch.arange(-4, 4, dtype=torch.int32))

    def forward(self, x):
        y = torch.fake_quantize_per_channel_affine(x.float(), self.scale.float(), self.zero, 1, -128, 127)
        return y.to(x.dtype)


def pruned_before():
    """Masked by torch.nn.utils.prune: the weight is a product with a mask."""
    net = rows(nn.Tanh())
    prune.l1_unstructured(net.b, "weight", 0.3)
    return net


def through(op, into=8):
    return lambda: maps(op() if isinstance(op, type) else op, into)


def rowwise(op, into=8):
    return lambda: rows(op() if isinstance(op, type) else op, into)


def named_inputs():
    return {"batch": {"x": torch.randn(3, 5)}, "scale": torch.tensor(1.5)}


EXACT = halves(A_MAP, (3, 4, 1, 1))
LINES = halves(A_ROW, (3, 4))
WHOLE = halves(WHOLE_ROW, (3, 8))

CASES = (
    Case("tied-layers", TiedLayers, ROWS, "exact", LINES | {"one.weight": (4, 4), "two.weight": (4, 4)}),
    Case("tied-transposed", AutoEncoder, ROWS, "exact", {"a.weight": (4, 5), "b.weight": (3, 4)}),
    Case(
        "shared-module",
        CalledTwice,
        ROWS,
        "exact",
        {"a.weight": (4, 5), "again.weight": (4, 4), "b.weight": (3, 8)},
    ),
    Case("skips-in-a-list", Skips, IMAGES, "exact", EXACT | {"blocks.2.weight": (4, 4, 1, 1)}),
    Case(
        "dense-concatenation",
        Dense,
        IMAGES,
        "exact",
        {"a.weight": A_MAP, "layers.2.weight": (2, 8, 1, 1), "b.weight": (3, 10, 1, 1)},
    ),
    Case(
        "u-net",
        UNet,
        IMAGES,
        "exact",
        {"down.weight": (6, 4, 3, 3), "up.weight": (6, 4, 2, 2), "b.weight": (3, 8, 1, 1)},
    ),
    Case(
        "nested-outputs",
        TwoHeads,
        ROWS,
        "exact",
        LINES | {"side.weight": (4, 3)},
        reason={"side.weight": "model output"},
    ),
    Case("named-inputs", NamedInputs, named_inputs, "exact", LINES),
    Case("autograd-function", rowwise(lambda x: Doubling.apply(x)), ROWS, "exact", LINES),
    Case("checkpointed", rowwise(Checkpointed), ROWS, "exact", LINES | {"op.inner.weight": (5, 4)}),
    Case("dropout", through(Dropouts), IMAGES, "exact", EXACT),
    Case(
        "stochastic-depth",
        through(StochasticDepth),
        IMAGES,
        "exact",
        EXACT | {"op.inner.weight": (4, 4, 1, 1)},
    ),
    Case(
        "parameter-list-and-dict",
        rowwise(ParameterList),
        TOKENS,
        "exact",
        LINES | {"op.scales.1": (4,), "op.shifts.late": (4,)},
    ),
    Case("forward-hook", rowwise(Hooked), ROWS, "exact", LINES | {"op.inner.weight": (4, 4)}),
    Case("vmap", rowwise(Mapped), ROWS, "exact", LINES | {"op.inner.weight": (4, 4)}),
    Case("casts", rowwise(Complemented), ROWS, "exact", LINES),
    Case("many-element-wise-operators", rowwise(Everything), ROWS, "exact", LINES),
    Case(
        "shared-config",
        SharedConfig,
        ROWS,
        "exact",
        {"a.weight": (6, 5), "middle.weight": (12, 6), "b.weight": (3, 12)},
        reason={"middle.weight": "a constant tensor"},
    ),
    Case(
        "loss-inside",
        LossInside,
        lambda: (torch.randn(3, 5), torch.tensor([0, 3, 1])),
        "exact",
        LINES | {"c.weight": (4, 3)},
        reason={"c.weight": "aten.cross_entropy_loss"},
    ),
    Case(
        "fake-quantised", rowwise(FakeQuantised), ROWS, "exact", LINES | {"op.scale": (4,), "op.zero": (4,)}
    ),
    Case(
        "masked-by-torch-prune",
        pruned_before,
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.weight_mask": (3, 4)},
    ),
    Case(
        "unknown-operator",
        rowwise(lambda x: wave(x)),
        ROWS,
        "protected",
        WHOLE,
        reason={"a.weight": "no rule covers secateur_micro.wave"},
    ),
)

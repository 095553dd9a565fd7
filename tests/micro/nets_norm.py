"""Normalisation, activation and everything else that holds one number for each channel."""

import warnings

import torch
from case import (
    A_MAP,
    A_ROW,
    IMAGES,
    ROWS,
    TOKENS,
    WHOLE_MAP,
    WHOLE_ROW,
    Case,
    halves,
    maps,
    rows,
)
from masked import over_kept
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torchvision.ops.misc import FrozenBatchNorm2d


class OwnRMSNorm(nn.Module):
    """As written in every language model."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class LayerNorm2d(nn.LayerNorm):
    """Channels last and back, as in ConvNeXt."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OwnBatchNorm(nn.Module):
    """Statistics as buffers, the arithmetic in Python."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        return (x - self.mean[None, :, None, None]) / (self.var.view(1, -1, 1, 1) + 1e-5).sqrt()


class ResponseNorm(nn.Module):
    """GRN of ConvNeXt V2: norms over the map, compared between channels."""

    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        norms = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (x * (norms / (norms.mean(-1, keepdim=True) + 1e-6))) + self.beta + x).permute(
            0, 3, 1, 2
        )


class Affine(nn.Module):
    """One number for each channel, as a parameter of any shape, or as a buffer that is not saved."""

    def __init__(self, shape, *, is_buffer=False):
        super().__init__()
        if is_buffer:
            self.register_buffer("scale", torch.ones(shape), persistent=False)
        else:
            self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return x * self.scale


class PlainAttribute(nn.Module):
    """A tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1)

    def forward(self, x):
        return x * self.scale.to(x.dtype)


class Doubled(nn.Module):
    """A parametrisation of one's own."""

    def forward(self, weight):
        return 2 * weight.tanh()


def reparametrised(make):
    """A network whose middle layer computes its weight from other tensors."""

    def build():
        net = rows(nn.Tanh())
        net.b = make(net.b)
        return net

    return build


def weight_norm_hook(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in every older model
        return nn.utils.weight_norm(layer)


def orthogonal():
    """A weight of orthogonal rows: each number depends on all of them."""
    net = reparametrised(
        lambda layer: parametrizations.orthogonal(
            layer, orthogonal_map="householder", use_trivialization=False
        )
    )()
    net.c = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    return net


def directed(name):
    """A row of zeros has no direction: removed rows get one, their length is zero already."""

    def mend(net, kept):
        direction = net.get_parameter(name)
        direction[torch.isin(torch.arange(len(direction)), kept[name][0], invert=True)] = 1

    return mend


def normed(make, into=maps):
    return lambda: into(make())


def layer_norm(norm, x, at):
    return F.layer_norm(x, (len(at),), norm.weight[at], norm.bias[at], norm.eps)


def layer_norm_of_maps(norm, x, at):
    return F.layer_norm(x, (len(at), 6, 6), norm.weight[at], norm.bias[at], norm.eps)


def layer_norm_2d(norm, x, at):
    return layer_norm_kept_last(norm, x.permute(0, 2, 3, 1), at).permute(0, 3, 1, 2)


def layer_norm_kept_last(norm, x, at):
    return F.layer_norm(x, (len(at),), norm.weight[at], norm.bias[at], norm.eps)


def group_norm(norm, x, at):
    return F.group_norm(x, 1, norm.weight[at], norm.bias[at], norm.eps)


def rms_norm(norm, x, at):
    return (
        norm.weight[at]
        * x
        / (x.square().mean(-1, keepdim=True) + (getattr(norm, "eps", 1e-6) or 1e-6)).sqrt()
    )


def response_norm(norm, x, at):
    norms = x.square().sum((2, 3), keepdim=True).sqrt()
    scaled = x * norms / (norms.mean(1, keepdim=True) + 1e-6)
    return norm.gamma[at].view(-1, 1, 1) * scaled + norm.beta[at].view(-1, 1, 1) + x


MAPS = halves(A_MAP, (3, 4, 1, 1))
LINES = halves(A_ROW, (3, 4))

CASES = (
    Case("batch-norm", normed(lambda: nn.BatchNorm2d(8)), IMAGES, "exact", MAPS | {"op.running_var": (4,)}),
    Case(
        "batch-norm-without-statistics",
        normed(lambda: nn.BatchNorm2d(8, track_running_stats=False)),
        IMAGES,
        "exact",
        MAPS | {"op.weight": (4,)},
    ),
    Case(
        "batch-norm-of-rows",
        normed(lambda: nn.BatchNorm1d(8), rows),
        ROWS,
        "exact",
        LINES | {"op.bias": (4,)},
    ),
    Case("own-batch-norm", normed(OwnBatchNorm), IMAGES, "exact", MAPS | {"op.mean": (4,), "op.var": (4,)}),
    Case(
        "frozen-batch-norm",
        normed(lambda: FrozenBatchNorm2d(8)),
        IMAGES,
        "exact",
        MAPS | {"op.running_mean": (4,)},
    ),
    Case(
        "instance-norm-running",
        normed(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        IMAGES,
        "exact",
        MAPS | {"op.running_mean": (4,), "op.weight": (4,)},
    ),
    Case(
        "instance-norm",
        normed(lambda: nn.InstanceNorm2d(8, affine=True)),
        IMAGES,
        "exact",
        MAPS | {"op.bias": (4,)},
    ),
    Case(
        "group-norm-whole-groups",
        normed(lambda: nn.GroupNorm(4, 8)),
        IMAGES,
        "exact",
        MAPS | {"op.weight": (4,)},
    ),
    Case(
        "group-norm-one-group",
        normed(lambda: nn.GroupNorm(1, 8)),
        IMAGES,
        "renormalised",
        MAPS,
        masked=over_kept("op", "a.weight", 1, group_norm),
    ),
    Case(
        "layer-norm",
        normed(lambda: nn.LayerNorm(8), rows),
        TOKENS,
        "renormalised",
        LINES,
        masked=over_kept("op", "a.weight", -1, layer_norm),
    ),
    Case(
        "layer-norm-of-maps",
        normed(lambda: nn.LayerNorm((8, 6, 6))),
        IMAGES,
        "renormalised",
        MAPS | {"op.weight": (4, 6, 6)},
        masked=over_kept("op", "a.weight", 1, layer_norm_of_maps),
    ),
    Case(
        "layer-norm-channels-first",
        normed(lambda: LayerNorm2d(8)),
        IMAGES,
        "renormalised",
        MAPS,
        masked=over_kept("op", "a.weight", 1, layer_norm_2d),
    ),
    Case(
        "rms-norm",
        normed(lambda: nn.RMSNorm(8, eps=1e-6), rows),
        TOKENS,
        "renormalised",
        LINES,
        masked=over_kept("op", "a.weight", -1, rms_norm),
    ),
    Case(
        "own-rms-norm",
        normed(OwnRMSNorm, rows),
        TOKENS,
        "renormalised",
        LINES | {"op.weight": (4,)},
        masked=over_kept("op", "a.weight", -1, rms_norm),
    ),
    Case(
        "global-response-norm",
        normed(ResponseNorm),
        IMAGES,
        "renormalised",
        MAPS | {"op.gamma": (4,)},
        masked=over_kept("op", "a.weight", 1, response_norm),
    ),
    Case(
        "local-response-norm",
        normed(lambda: nn.LocalResponseNorm(3)),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 8, 1, 1)),
        reason={"a.weight": "avg_pool3d"},
    ),
    Case("prelu-each", normed(lambda: nn.PReLU(8)), IMAGES, "exact", MAPS | {"op.weight": (4,)}),
    Case("prelu-one", normed(nn.PReLU), IMAGES, "exact", MAPS | {"op.weight": (1,)}),
    Case("layer-scale", normed(lambda: Affine((8,)), rows), TOKENS, "exact", LINES | {"op.scale": (4,)}),
    Case(
        "scale-of-maps",
        normed(lambda: Affine((1, 8, 1, 1))),
        IMAGES,
        "exact",
        MAPS | {"op.scale": (1, 4, 1, 1)},
    ),
    Case(
        "buffer-not-saved",
        normed(lambda: Affine((8, 1, 1), is_buffer=True)),
        IMAGES,
        "exact",
        MAPS | {"op.scale": (4, 1, 1)},
    ),
    Case(
        "plain-tensor-attribute",
        normed(PlainAttribute),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 8, 1, 1)),
        reason={"a.weight": "a constant tensor"},
    ),
    Case(
        "weight-norm-hook",
        reparametrised(weight_norm_hook),
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.weight_v": (3, 4)},
        masked=directed("b.weight_v"),
    ),
    Case(
        "weight-norm-parametrisation",
        reparametrised(parametrizations.weight_norm),
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.parametrizations.weight.original1": (3, 4)},
        masked=directed("b.parametrizations.weight.original1"),
    ),
    Case(
        "spectral-norm-hook",
        reparametrised(nn.utils.spectral_norm),
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.weight_orig": (3, 4)},
    ),
    Case(
        "spectral-norm-parametrisation",
        reparametrised(parametrizations.spectral_norm),
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.parametrizations.weight.original": (3, 4)},
    ),
    Case(
        "orthogonal-parametrisation",
        orthogonal,
        ROWS,
        "protected",
        {"a.weight": WHOLE_ROW, "b.parametrizations.weight.original": (6, 8), "c.0.weight": (2, 6)},
        reason={"a.weight": "aten.linalg_householder_product"},
    ),
    Case(
        "own-parametrisation",
        reparametrised(
            lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()) or layer
        ),
        ROWS,
        "exact",
        {"a.weight": A_ROW, "b.parametrizations.weight.original": (3, 4)},
    ),
)

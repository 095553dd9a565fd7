"""The surgery: new weights for a layer, and nothing in the place of its norm."""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from secateur.capture.copies import copy_module
from secateur.folding.pairs import NormPair


def without_norms(model: nn.Module, pairs: Iterable[NormPair]) -> nn.Module:
    """Copy a model with batch norms folded into the layers before them.

    Args:
        model: The model; not changed.
        pairs: The norms with their layers.

    Returns:
        The copy. Norms are `nn.Identity` there, or what else ran in their module behind them.
    """
    made = copy_module(model)
    with torch.no_grad():
        for pair in pairs:
            _set_tensors(made, pair, *folded_tensors(made, pair))
            _remove(made, pair)
    return made


def folded_tensors(model: nn.Module, pair: NormPair) -> tuple[Tensor, Tensor]:
    """The weight and the bias of a layer with its norm in them.

    They are computed in float64 and rounded once, to the type that the layer has.

    Args:
        model: With both; not changed.
        pair: Their names.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0))
        >>> for name, number in (("0.weight", 3.0), ("1.running_var", 4.0), ("1.running_mean", 2.0)):
        ...     _ = net.state_dict()[name].fill_(number)
        >>> numbers = ("1.running_mean", "1.running_var", "1.weight", "1.bias")
        >>> pair = NormPair("0", "1", (0, 1), "0.weight", "0.bias", numbers, 0.0)
        >>> [float(one) for one in folded_tensors(net, pair)]
        [1.5, -1.0]
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def of(name: str | None) -> Tensor | None:
        return None if name is None or name not in held else held[name].detach().to("cpu", torch.float64)

    weight, bias = of(pair.weight), of(pair.bias)
    assert weight is not None, "the record holds its name"
    blocks = weight.chunk(pair.groups) if pair.groups else (weight,)  # each makes channels of its own
    parts = zip(*(_chunks(one, len(blocks)) for one in (bias, *map(of, pair.statistics))), strict=True)
    made = [_fused(block, pair, *part) for block, part in zip(blocks, parts, strict=True)]
    like = held[pair.weight]
    kind = held[pair.bias].dtype if pair.bias in held else like.dtype
    weights, biases = (torch.cat([one[at] for one in made]) for at in (0, 1))
    return weights.to(like.device, like.dtype), biases.to(like.device, kind)


def _fused(
    weight: Tensor, pair: NormPair, bias: Tensor | None, *norm: Tensor | None
) -> tuple[Tensor, Tensor]:
    """PyTorch's formula on one block of a weight, of which a transposed one has the inputs first."""
    mean, variance, scale, shift = norm
    assert mean is not None, "the record holds its name"
    assert variance is not None, "the record holds its name"
    one, two = fuse_conv_bn_weights(
        weight, bias, mean, variance, pair.eps, scale, shift, transpose=bool(pair.groups)
    )
    return one.detach(), two.detach()


def _chunks(tensor: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if tensor is None else tensor.chunk(count)


def _set_tensors(model: nn.Module, pair: NormPair, weight: Tensor, bias: Tensor) -> None:
    needs_gradient = model.get_parameter(pair.weight).requires_grad
    for name, tensor in ((pair.weight, weight), (pair.bias, bias)):
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner).register_parameter(own, nn.Parameter(tensor, needs_gradient))


def _remove(model: nn.Module, pair: NormPair) -> None:
    """Put what else ran in a norm's module in its place."""
    norm = model.get_submodule(pair.norm)
    children = OrderedDict((name, norm._modules[name]) for name in pair.rest)
    left = nn.Sequential(children) if children else nn.Identity()  # type: ignore[arg-type]
    parent, _, own = pair.norm.rpartition(".")
    model.get_submodule(parent)._modules[own] = left
    left.training = norm.training

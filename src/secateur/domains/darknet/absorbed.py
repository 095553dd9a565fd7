"""How exactly the constants of removed channels went into the next layers.

A removed channel of scale 0 is everywhere c = act(beta). The convolution behind it, of weight w and at a
position p whose kernel reaches the taps T(p), so loses

    lost(p) = sum over removed channels i, taps t in T(p) of  w[i, t] * c[i]

Without padding T(p) is the whole kernel and lost is one number for each channel, which the batch norm's mean
or the bias takes: exact. With padding the border sees fewer taps; the number taken is a mean, and what stays
is at most

    bound = max over p, channels of |lost(p) - taken| / sigma        sigma = sqrt(variance + eps)

in standard deviations of the channel (in its own units where nothing normalises). Channels whose scale is
not 0 vary besides: by gamma times a normalised value, about Gaussian with deviation 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.costs.stopwatch import quiet
from secateur.domains.darknet.layers import IMAGE
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.domains.darknet.sections.yolo import Yolo
from secateur.plans.plan import Plan

__all__ = ["Absorbed", "absorbed_into"]

EXACT = 1e-5
"""A bound below this is float32's rounding."""


@dataclass(frozen=True)
class Absorbed:
    """What one layer took.

    Attributes:
        layer: The convolution, by its number in the uncut cfg.
        inputs: How many of its inputs were removed.
        size: Rows of its kernel.
        padding: Rows that are padded before and behind.
        bound: Largest error that the constants leave at any position, in standard deviations of the channel.
        largest_scale: The largest |gamma| among the removed channels, added up where shortcuts add; 0 means
            that they are constants.
    """

    layer: int
    inputs: int
    size: int
    padding: int
    bound: float
    largest_scale: float

    @property
    def exact(self) -> bool:
        """The constants are all there, at every position."""
        return self.bound <= EXACT

    def __str__(self) -> str:
        kernel = f"{self.size}x{self.size}" + (f" padded by {self.padding}" if self.padding else "")
        how = "exact" if self.exact else f"within {self.bound:.2g} deviations, at the border"
        return f"layer {self.layer} ({kernel}): {self.inputs} inputs, {how}"


def absorbed_into(dense: Darknet, cut: Darknet, plan: Plan) -> tuple[Absorbed, ...]:
    """Compare what each layer took with what the removed constants gave it at each position.

    Args:
        dense: The uncut network.
        cut: The cut one, its constants absorbed without data.
        plan: What was kept.

    Returns:
        One entry for each convolution that lost inputs.
    """
    state = cut.state_dict()
    with quiet(dense, threads=None):
        kept = _through(
            dense, lambda index, _: torch.from_numpy(plan.masks(f"layers.{index}.conv.weight")[0])
        )
        constants = _through(dense, lambda _, layer: _constant(layer))
        scales = _through(dense, lambda _, layer: _scale(layer))
    found: list[Absorbed] = []
    for index, layer in enumerate(dense.layers):
        if not isinstance(layer, Convolutional):
            continue
        source = dense.sources[index][0]
        removed = kept[source] == 0
        if not bool(removed.any()):
            continue
        stays = kept[index] > 0
        lost = _lost(layer, constants[source] * removed)[stays]
        taken, sigma = _taken(layer, state, f"layers.{index}", stays)
        bound = float(((lost - taken[:, None]).abs().amax(1) / sigma).max())
        found.append(
            Absorbed(
                layer=index,
                inputs=int(removed.sum()),
                size=layer.conv.kernel_size[0],
                padding=int(layer.conv.padding[0]),
                bound=bound,
                largest_scale=float(scales[source][removed].max()),
            )
        )
    return tuple(found)


def _through(dense: Darknet, made: Callable[[int, Convolutional], Tensor]) -> Mapping[int, Tensor]:
    """What each layer's channels hold where its convolutions make this: run as maps of one pixel, float64."""
    known = {IMAGE: dense.black((1, 1))[0, :, 0, 0].double() + 1}  # the image's channels always stay
    for index, layer in enumerate(dense.layers):
        if isinstance(layer, Convolutional):
            known[index] = made(index, layer).detach().double()
        elif not isinstance(layer, Yolo):
            maps = [known[source][None, :, None, None] for source in dense.sources[index]]
            known[index] = layer(*maps)[0, :, 0, 0]
    return known


def _constant(layer: Convolutional) -> Tensor:
    """What a convolution's channels are if all scales are zero."""
    beta = layer.conv.bias if layer.norm is None else layer.norm.bias
    assert beta is not None, "a convolution without normalisation has a bias"
    result: Tensor = layer.act(beta.detach().double())
    return result


def _scale(layer: Convolutional) -> Tensor:
    return torch.full_like(_constant(layer), torch.inf) if layer.norm is None else layer.norm.weight.abs()


def _lost(layer: Convolutional, constants: Tensor) -> Tensor:
    """What the constants give each output channel at every kind of position (channels, positions)."""
    conv = layer.conv
    rows: list[Tensor] = []
    # One map of each parity: with a stride the last window may or may not reach into the padding.
    for side in {conv.kernel_size[0] + 2 * conv.stride[0] + more for more in range(conv.stride[0])}:
        maps = constants[None, :, None, None].expand(1, -1, side, side)
        weight = conv.weight.detach().double()
        output = F.conv2d(maps, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        rows.append(output[0].flatten(1))
    return torch.cat(rows, 1)


def _taken(
    layer: Convolutional, state: Mapping[str, Tensor], name: str, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """What a layer's bias or mean has taken, and the deviation of each channel."""
    if layer.norm is None:
        assert layer.conv.bias is not None, "a convolution without normalisation has a bias"
        taken = state[f"{name}.conv.bias"].double() - layer.conv.bias.detach().double()[kept]
        return taken, torch.ones_like(taken)
    mean, variance = layer.norm.running_mean, layer.norm.running_var
    assert mean is not None, "Darknet's normalisation tracks its statistics"
    assert variance is not None, "Darknet's normalisation tracks its statistics"
    taken = mean.double()[kept] - state[f"{name}.norm.running_mean"].double()
    return taken, (variance.double()[kept] + layer.norm.eps).sqrt()

"""Fake quantisation: rounding to a grid, with the scale of all numbers or one for each channel.

    per tensor    self(...) -> (...)
    per channel   self(... c ...), scale(c), zero_point(c) -> (... c ...)

An operator that also observes takes the range of what it rounds, over everything or for each channel.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr
from secateur.graph.trait import Trait

_PER_TENSOR = {
    "aten.fake_quantize_per_tensor_affine": "torch.fake_quantize_per_tensor_affine(T(2, 3), 0.1, 0, 0, 9)",
    "aten._fake_quantize_learnable_per_tensor_affine": (
        "torch._fake_quantize_learnable_per_tensor_affine(T(2, 3).float(), T(1).float().abs(), "
        "(T(1) * 0).float(), 0, 9, 1.0)"
    ),
}
_PER_CHANNEL = {
    "aten.fake_quantize_per_channel_affine": (
        "torch.fake_quantize_per_channel_affine(T(2, 3).float(), T(3).float().abs(), "
        "(T(3) * 0).int(), 1, 0, 9)"
    ),
    "aten._fake_quantize_learnable_per_channel_affine": (
        "torch._fake_quantize_learnable_per_channel_affine(T(2, 3).float(), T(3).float().abs(), "
        "(T(3) * 0).float(), 1, 0, 9, 1.0)"
    ),
}


@rule(
    *_PER_TENSOR,
    law="self(...) -> (...), rounded to a grid",
    samples=_PER_TENSOR,
    traits=Trait.POINTWISE,
)
def per_tensor(call: Call) -> list[list[Expr]]:
    """One grid for all numbers."""
    return [call["self"]]


@rule(
    *_PER_CHANNEL,
    law="self(... c ...), scale(c), zero_point(c) -> (... c ...), rounded to a grid",
    samples=_PER_CHANNEL,
)
def per_channel(call: Call) -> list[list[Expr]]:
    """A grid for each channel."""
    _hold_by_channel(call, call.arg("axis"), ("scale", "zero_point"))
    return [call["self"]]


@rule(
    "aten.fused_moving_avg_obs_fake_quant",
    law="self(... c ...) -> (... c ...), rounded to a grid by its range, over all or for each channel",
    samples=(
        "torch.fused_moving_avg_obs_fake_quant(T(3, 2).float(), torch.tensor([1]), torch.tensor([1]), "
        "-T(3).float().abs(), T(3).float().abs(), T(3).float().abs(), (T(3) * 0).int(), 0.1, 0, 9, 0, True)",
    ),
)
def observed(call: Call) -> list[list[Expr]]:
    """What `prepare_qat` puts on weights and activations; a buffer that waits for its first run is short."""
    dims = call["self"]
    channel = call.dim(call.arg("ch_axis"), len(dims)) if call.arg("per_row_fake_quant") else None
    for at, dim in enumerate(dims):
        if at != channel:
            call.renormalise(dim, "its range is taken over it")
    if channel is not None:
        _hold_by_channel(call, channel, ("running_min", "running_max", "scale", "zero_point"))
    return [dims]


def _hold_by_channel(call: Call, axis: int, names: tuple[str, ...]) -> None:
    dims = call["self"]
    channels = dims[call.dim(axis, len(dims))]
    for name in names:
        if [dim.size for dim in call[name]] == [channels.size]:
            call.equate(channels, call[name][0])

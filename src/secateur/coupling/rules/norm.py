"""Normalisation: which dims carry statistics (removing positions renormalises) and which only parameters."""

from secateur.coupling.call import Call
from secateur.coupling.rule import equation, rule
from secateur.graph.axes import ONE, Expr
from secateur.graph.equation import parse
from secateur.graph.trait import Trait

_CHANNELS = "input(n c ...), weight(c), bias(c), running_mean(c), running_var(c) -> (n c ...)"


@rule(
    "aten.batch_norm",
    law=f"{_CHANNELS}; without running statistics they are taken over n and ...",
    samples=(
        "F.batch_norm(T(2, 3, 4, 4), T(3), T(3).abs() + 1, T(3), T(3))",
        "F.batch_norm(T(2, 3), T(3), T(3).abs() + 1)",
        "F.batch_norm(T(4, 3, 5), None, None, T(3), T(3), training=True)",
    ),
    traits=Trait.NORM | Trait.CHANNEL_NORM,
)
def batch_norm(call: Call) -> list[list[Expr]]:
    """Recorded in eval mode, so statistics are taken only where none are tracked."""
    return call.equation(parse(_CHANNELS), renormalised="n ..." if call.arg("training") else "")


@rule(
    "aten.instance_norm",
    law=f"{_CHANNELS}; without running statistics they are taken over ...",
    samples=(
        "F.instance_norm(T(2, 3, 4, 4), None, None, T(3), T(3))",
        "F.instance_norm(T(2, 3, 4), T(3), T(3).abs() + 1, use_input_stats=False)",
        "F.instance_norm(T(2, 3, 4), None, None, T(3), T(3))",
    ),
    traits=Trait.NORM | Trait.CHANNEL_NORM,
)
def instance_norm(call: Call) -> list[list[Expr]]:
    """Statistics over the spatial dims of each sample."""
    return call.equation(parse(_CHANNELS), renormalised="..." if call.arg("use_input_stats") else "")


equation(
    "aten.group_norm",
    "input(n (g c) ...), weight((g c)), bias((g c)) -> (n (g c) ...)",
    sizes={"g": "num_groups"},
    renormalised="c ...",
    samples=("F.group_norm(T(2, 6, 4, 4), 3, T(6), T(6))", "F.group_norm(T(2, 6), 1)"),
    traits=Trait.NORM,
)


@rule(
    "aten.layer_norm",
    "aten.rms_norm",
    "aten.native_layer_norm",
    "aten._fused_rms_norm",
    law="input(... c), weight(c), bias(c) -> (... c), statistics over every c of normalized_shape",
    samples={
        "aten.layer_norm": "F.layer_norm(T(2, 5, 3, 4), (3, 4), T(3, 4), T(3, 4))",
        "aten.rms_norm": "F.rms_norm(T(2, 5, 4), (4,), T(4))",
        "aten.native_layer_norm": "torch.native_layer_norm(T(2, 5, 3), (3,), T(3), T(3), 1e-5)",
        "aten._fused_rms_norm": "torch.ops.aten._fused_rms_norm(T(2, 5, 3), [3], T(3), 1e-5)",
    },
    traits=Trait.NORM,
)
def layer_norm(call: Call) -> list[list[Expr]]:
    """Statistics over the last dims, as many as `normalized_shape` has."""
    dims = call["input"]
    normalised = dims[len(dims) - len(call.arg("normalized_shape")) :]
    for name in ("weight", "bias"):
        if name in call:
            call.broadcast(normalised, call[name])
    for index, dim in enumerate(normalised):
        call.literal(("normalized_shape", index), dim)
        call.renormalise(dim, "statistics are taken over it")
    statistics = dims[: len(dims) - len(normalised)] + [ONE] * len(normalised)
    return [dims] + [statistics for _ in call.out_shapes()[1:]]


@rule(
    "aten._weight_norm",
    "aten._weight_norm_interface",
    law="v(... o ...), g(o) -> (... o ...): g v / |v|, the norm over all but o; zeros add nothing to a norm",
    samples={
        "aten._weight_norm": "torch._weight_norm(T(4, 3, 2), T(4, 1, 1), 0)",
        "aten._weight_norm_interface": "torch.ops.aten._weight_norm_interface(T(4, 3), T(1, 3), 1)",
    },
    traits=Trait.MIXES,
)
def weight_norm(call: Call) -> list[list[Expr]]:
    """Weights as lengths and directions (Salimans and Kingma 2016); the norms come second."""
    lengths = call["g"]
    return [call.broadcast(call["v"], lengths), *([lengths] * (len(call.node.outputs) - 1))]


@rule(
    "aten.norm_except_dim",
    law="v(... o ...) -> (1 o 1): the norm over all but o; zeros add nothing to it",
    samples=("torch.norm_except_dim(T(4, 3, 2), 2, 0)", "torch.norm_except_dim(T(4, 3), 2, -1)"),
)
def norm_except_dim(call: Call) -> list[list[Expr]]:
    """The lengths of weight norm; dim -1 stands for one length of all."""
    at = call.arg("dim")
    return [[] if at < 0 else [dim if index == at else ONE for index, dim in enumerate(call["v"])]]

"""Element-wise operators: one rule, broadcasting, and what else is known of them.

PyTorch tags its element-wise operators (`torch.Tag.pointwise`); of those only the ones with traits beside
`POINTWISE` need an entry here: arithmetic and activations. Also listed are the ones that it does not tag:
copies, casts, dropout, and operators whose extra operand lies along one dim.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr, MisalignedError
from secateur.graph.node import Node
from secateur.graph.trait import Trait
from secateur.graph.unify import split

_LAW = "positions stay where they are; operands broadcast"
_COPIED = Trait.POINTWISE | Trait.MOVES | Trait.ROW_MAJOR
_SHOWN = _COPIED | Trait.VIEW
_ARITHMETIC = Trait.POINTWISE | Trait.ARITHMETIC
_FOLLOWING = Trait.POINTWISE | Trait.ACTIVATION
_CLIPPING = _FOLLOWING | Trait.IDEMPOTENT

_COPIES = {
    "aten.clone": "T(2, 3).clone()",
    "aten.lift_fresh_copy": "torch.ops.aten.lift_fresh_copy(T(2, 3))",
    "aten.resolve_conj": "torch.ops.aten.resolve_conj(T(2, 3))",
    "aten.resolve_neg": "torch.ops.aten.resolve_neg(T(2, 3))",
    "aten._to_copy": "torch.ops.aten._to_copy(T(2, 3), dtype=torch.float32)",
}
_VIEWS = {
    "aten.alias": "torch.ops.aten.alias(T(2, 3))",
    "aten.detach": "T(2, 3).clone().detach_()",
    "aten.lift": "torch.ops.aten.lift(T(2, 3))",
    "aten.lift_fresh": "torch.ops.aten.lift_fresh(T(2, 3))",
    "aten.positive": "torch.positive(T(2, 3))",
}
_CONSTANT = {
    "aten.copy": "torch.zeros_like(T(2, 3)).copy_(T(3))",
    "aten.fill": "T(2, 3).clone().fill_(2.0)",
    "aten.full_like": "torch.full_like(T(2, 3), 2.0)",
    "aten.ones_like": "torch.ones_like(T(2, 3))",
    "aten.zero": "T(2, 3).clone().zero_()",
    "aten.zeros_like": "torch.zeros_like(T(2, 3))",
}
_SUMS = {
    "aten.addcdiv": "torch.addcdiv(T(2, 3), T(3), T(2, 1), value=0.5)",
    "aten.addcmul": "torch.addcmul(T(2, 3), T(3), T(2, 1), value=0.5)",
    "aten.sub": "torch.sub(T(2, 3), T(3))",
    "aten.subtract": "torch.ops.aten.subtract(T(2, 3), T(2, 1))",
}
_PRODUCTS = {
    "aten.mul": "torch.mul(T(2, 3), T(2, 1))",
    "aten.multiply": "torch.ops.aten.multiply(T(2, 3), T(2, 1))",
}
_QUOTIENTS = {
    "aten.div": "torch.div(T(2, 3), T(2, 1))",
    "aten.divide": "torch.ops.aten.divide(T(2, 3), T(2, 1))",
    "aten.deg2rad": "torch.deg2rad(T(2, 3))",
    "aten.rad2deg": "torch.rad2deg(T(2, 3))",
    "aten.true_divide": "torch.true_divide(T(2, 3), T(3))",
    "aten.lerp": "torch.lerp(T(2, 3), T(3), T(2, 1))",
    "aten.neg": "torch.neg(T(2, 3))",
    "aten.negative": "torch.ops.aten.negative(T(2, 3))",
    "aten.rsub": "torch.rsub(T(2, 3), T(3))",
}
_CLIPS = {
    "aten.clamp": "torch.clamp(T(2, 3), -0.5, 0.5)",
    "aten.clamp_max": "torch.clamp_max(T(2, 3), 0.5)",
    "aten.clamp_min": "torch.clamp_min(T(2, 3), 0.0)",
    "aten.clip": "torch.clip(T(2, 3), 0.0, 6.0)",
    "aten.hardtanh": "F.hardtanh(T(2, 3))",
    "aten.relu": "F.relu(T(2, 3))",
    "aten.relu6": "F.relu6(T(2, 3))",
}
_CURVES = {
    "aten.celu": "F.celu(T(2, 3))",
    "aten.elu": "F.elu(T(2, 3))",
    "aten.gelu": "F.gelu(T(2, 3))",
    "aten.hardswish": "F.hardswish(T(2, 3))",
    "aten.leaky_relu": "F.leaky_relu(T(2, 3))",
    "aten.mish": "F.mish(T(2, 3))",
    "aten.selu": "F.selu(T(2, 3))",
    "aten.silu": "F.silu(T(2, 3))",
    "aten.softplus": "F.softplus(T(2, 3))",
    "aten.tanh": "torch.tanh(T(2, 3))",
}
_OTHERS = {
    "aten._conj": "torch.conj(torch.complex(T(2, 3), T(2, 3)))",
    "aten.imag": "torch.complex(T(2, 3), T(2, 3)).imag",
    "aten.masked_fill": "T(2, 3).masked_fill(T(2, 3) > 0, 1.5)",
}

_DROPOUTS = {
    "aten.alpha_dropout": "F.alpha_dropout(T(2, 3), training=False)",
    "aten.dropout": "F.dropout(T(2, 3), training=False)",
    "aten.feature_alpha_dropout": "F.feature_alpha_dropout(T(2, 3), training=False)",
    "aten.feature_dropout": "F.dropout2d(T(2, 3, 4, 4), training=False)",
}
_UNARY_ALIASES = [
    "absolute",
    "arccos",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "conj",
    "fix",
    "isreal",
    "log_sigmoid",
    "real",
    "special_digamma",
    "special_erf",
    "special_erfc",
    "special_erfinv",
    "special_exp2",
    "special_expit",
    "special_expm1",
    "special_gammaln",
    "special_i0",
    "special_log1p",
    "special_logit",
    "special_ndtr",
    "special_psi",
    "special_round",
    "special_sinc",
]
_BINARY_ALIASES = [
    "__and__",
    "__or__",
    "__xor__",
    "arctan2",
    "complex",
    "floor_divide",
    "greater",
    "greater_equal",
    "isclose",
    "less",
    "less_equal",
    "not_equal",
    "polar",
    "special_gammainc",
    "special_gammaincc",
    "special_xlogy",
]
_ALIASES = {f"aten.{name}": f"torch.ops.aten.{name}(T(2, 3))" for name in _UNARY_ALIASES}
_ALIASES |= {
    f"aten.{name}": f"torch.ops.aten.{name}(T(2, 3){mask}, T(2, 1){mask})"
    for name in _BINARY_ALIASES
    for mask in (" > 0" if name.startswith("__") else "",)
}


def pointwise(call: Call) -> list[list[Expr]]:
    """Broadcast every tensor operand; the outputs have the dims of the result."""
    result = call.broadcast(*(dims for _, dims in call.operands()))
    return [_fitted(call, result, shape) for shape in call.out_shapes()]


def _fitted(call: Call, dims: list[Expr], shape: tuple[int, ...]) -> list[Expr]:
    """An in-place result keeps the rank of its target."""
    dims = dims[len(dims) - len(shape) :]
    if [dim.size for dim in dims] == list(shape):
        return dims
    raise ValueError(f"operands broadcast to {[dim.size for dim in dims]}, the result is {list(shape)}")


for _family, _traits in (
    (_COPIES, _COPIED),
    (_VIEWS, _SHOWN),
    (_CONSTANT, _ARITHMETIC),
    (_SUMS, _ARITHMETIC | Trait.ADDS),
    ({"aten.add": "torch.add(T(2, 3), T(3))"}, _ARITHMETIC | Trait.ADDS | Trait.SUMS),
    (_PRODUCTS, _ARITHMETIC | Trait.MULTIPLIES),
    (_QUOTIENTS, _ARITHMETIC),
    (_CLIPS, _CLIPPING),
    (_CURVES, _FOLLOWING),
    (_OTHERS | _ALIASES, Trait.POINTWISE),
    ({"aten.empty_like": "torch.empty_like(T(2, 3)).fill_(1.0)"}, Trait.NONE),
    ({"aten.contiguous": "T(2, 3).t().contiguous()"}, _COPIED | Trait.PACKS),
):
    rule(*_family, law=_LAW, samples=_family, traits=_traits)(pointwise)

rule(
    "aten.to",
    law=_LAW,
    samples=("T(2, 3).to(torch.float32)", "T(2, 3).to(torch.float64)"),
    traits=_SHOWN,
)(pointwise)


def _is_off(node: Node) -> bool:
    return not (node.args.get("train") or node.args.get("training"))


@rule(
    *_DROPOUTS,
    "aten.rrelu",
    law="element-wise; drawing random numbers in eval mode is a barrier",
    samples=_DROPOUTS | {"aten.rrelu": "F.rrelu(T(2, 3), training=False)"},
    traits=dict.fromkeys(_DROPOUTS, _SHOWN) | {"aten.rrelu": _FOLLOWING},
    traits_if=_is_off,
)
def dropout(call: Call) -> list[list[Expr]]:
    """Noise that is off in eval mode, as it should be."""
    if call.arg("train", call.arg("training")):
        return call.barrier("noise is on in eval mode, its random numbers belong to positions")
    return pointwise(call)


@rule(
    "aten.where",
    law="element-wise choice; where(condition) alone lists positions and is a barrier",
    samples=("torch.where(T(2, 3) > 0, T(3), 0.5)", "torch.where(T(2, 1) > 0, T(3), T(2, 3))"),
    traits=Trait.POINTWISE,
    traits_if=lambda node: "other" in node.args,
)
def where(call: Call) -> list[list[Expr]]:
    """The form with two choices broadcasts."""
    return pointwise(call) if "other" in call.node.args else call.barrier("positions are listed")


@rule(
    "aten.type_as",
    law="only the element type of the second operand counts",
    samples=("T(2, 3).type_as(T(4))",),
    traits=Trait.MOVES | Trait.ROW_MAJOR | Trait.VIEW,
)
def cast_like(call: Call) -> list[list[Expr]]:
    """The dims of the first operand."""
    return [call["self"]]


@rule(
    "aten.prelu",
    law="self(n c ...), weight(c) -> (n c ...); a weight of one position serves every channel",
    samples=("F.prelu(T(2, 3, 4), T(3))", "F.prelu(T(2, 3, 4), T(1))", "F.prelu(T(3), T(1))"),
    traits=Trait.ACTIVATION,
)
def prelu(call: Call) -> list[list[Expr]]:
    """A slope for each channel, or one for all."""
    dims = call["self"]
    for slope in call["weight"]:
        if slope.size > 1:
            call.equate(dims[1], slope)
    return [dims]


@rule(
    "aten.glu",
    law="x(... (a + a)) -> (... a): the halves hold the same positions",
    samples=("F.glu(T(2, 6), dim=1)", "F.glu(T(2, 6, 3), dim=1)"),
)
def glu(call: Call) -> list[list[Expr]]:
    """Half of the positions gate the other half."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    try:
        value, gate = split(dims[at], dims[at].size // 2, call.node)
    except MisalignedError as error:
        call.protect(dims[at], str(error))
        value = gate = call.fixed(dims[at].size // 2, str(error))
    call.equate(value, gate)
    dims[at] = value
    return [dims]

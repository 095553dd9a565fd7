"""Linear layers, matrix products and attention: everything that contracts an axis.

linear    y[..., o] = sum over i of  w[o, i] * x[..., i]  +  b[o]
sdpa      y[..., q, e] = sum over k of  softmax_k(sum over d of  Q[..., q, d] K[..., k, d]) V[..., k, e]
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import equation, rule
from secateur.graph.axes import Expr, axis, product
from secateur.graph.equation import parse
from secateur.graph.trait import Trait

equation(
    "aten.linear",
    "input(... i), weight(o i), bias(o) -> (... o)",
    macs="... i o",
    samples=("F.linear(T(2, 5, 3), T(4, 3), T(4))", "F.linear(T(3), T(4, 3))"),
    traits=Trait.LAYER,
)
equation(
    "aten.mm",
    "self(m i), mat2(i o) -> (m o)",
    macs="m i o",
    samples=("torch.mm(T(2, 3), T(3, 4))",),
    traits=Trait.LAYER,
)
equation(
    "aten.bmm",
    "self(b m i), mat2(b i o) -> (b m o)",
    macs="b m i o",
    samples=("torch.bmm(T(2, 3, 4), T(2, 4, 5))",),
)
equation("aten.mv", "self(m i), vec(i) -> (m)", macs="m i", samples=("torch.mv(T(2, 3), T(3))",))
equation("aten.dot", "self(i), tensor(i) -> ()", macs="i", samples=("torch.dot(T(3), T(3))",))
equation("aten.outer", "self(m), vec2(o) -> (m o)", macs="m o", samples=("torch.outer(T(2), T(3))",))

_MATMUL = {
    (False, False): ("self(i), other(i) -> ()", "i"),
    (True, False): ("self(... i), other(i) -> (...)", "... i"),
    (False, True): ("self(i), other(... i o) -> (... o)", "... i o"),
    (True, True): ("self(... m i), other(... i o) -> (... m o)", "... m i o"),
}


_MATMULS = {
    "aten.matmul": "torch.matmul(T(2, 5, 1, 3), T(5, 3, 4))",
    "aten.linalg_matmul": "torch.linalg.matmul(T(2, 3), T(3, 4))",
}


@rule(
    *_MATMULS,
    law="self(... m i), other(... i o) -> (... m o); a vector lacks m or o",
    macs="... m i o",
    samples=_MATMULS,
    traits=Trait.LAYER,
)
def matmul(call: Call) -> list[list[Expr]]:
    """Choose the equation by the ranks of the operands."""
    text, macs = _MATMUL[len(call["self"]) > 1, len(call["other"]) > 1]
    return call.equation(parse(text), macs=macs)


_ADDED = {
    "aten.addmm": ("mat1(m i), mat2(i o) -> (m o)", "m i o"),
    "aten.addmv": ("mat(m i), vec(i) -> (m)", "m i"),
    "aten.baddbmm": ("batch1(b m i), batch2(b i o) -> (b m o)", "b m i o"),
}


@rule(
    *_ADDED,
    law="self + the product of the other two, self broadcast to the result",
    macs="... m i o",
    samples={
        "aten.addmm": "torch.addmm(T(4), T(2, 3), T(3, 4))",
        "aten.addmv": "torch.addmv(T(2), T(2, 3), T(3))",
        "aten.baddbmm": "torch.baddbmm(T(2, 3, 5), T(2, 3, 4), T(2, 4, 5))",
    },
    traits={"aten.addmm": Trait.LAYER},
)
def added_product(call: Call) -> list[list[Expr]]:
    """A matrix product with a term added to it."""
    text, macs = _ADDED[call.node.op.removesuffix("_")]
    (result,) = call.equation(parse(text), macs=macs)
    return [call.broadcast(result, call["self"])]


@rule(
    "aten.scaled_dot_product_attention",
    law="query(... q d), key(... k d), value(... k e), attn_mask(... q k) -> (... q e); "
    "with grouped keys the heads of query are (h r), those of key and value h",
    macs="... q k d + ... q k e",
    samples=(
        "F.scaled_dot_product_attention(T(2, 3, 4, 5), T(2, 3, 6, 5), T(2, 3, 6, 7), scale=0.3)",
        "F.scaled_dot_product_attention(T(2, 3, 4, 5), T(2, 3, 6, 5), T(2, 3, 6, 7), T(4, 6), scale=0.3)",
        "F.scaled_dot_product_attention(T(2, 4, 5), T(2, 4, 5), T(2, 4, 5), is_causal=True, scale=0.3)",
        "F.scaled_dot_product_attention("
        "T(2, 6, 4, 5), T(2, 3, 4, 5), T(2, 3, 4, 7), scale=0.3, enable_gqa=True)",
    ),
)
def attention(call: Call) -> list[list[Expr]]:
    """Attention over keys k; the scale must be given, or the width d of a head decides it."""
    query, key, value = call["query"], call["key"], call["value"]
    if call.arg("enable_gqa"):
        times = axis(query[-3].size // key[-3].size)
        key, value = ([*dims[:-3], product(dims[-3], times), *dims[-2:]] for dims in (key, value))
    shared = call.broadcast(query[:-2], key[:-2], value[:-2])
    call.equate(query[-1], key[-1])
    call.equate(key[-2], value[-2])
    call.protect(key[-2], "attention weighs its positions, the tokens, against each other")
    call.count_macs(*shared, query[-2], key[-2], query[-1])
    call.count_macs(*shared, query[-2], key[-2], value[-1])
    if call.arg("scale") is None:
        call.protect(query[-1], "the attention scale is computed from the width of a head")
    if call.arg("is_causal"):
        for positions in (query[-2], key[-2]):
            call.protect(positions, "causal attention compares positions by number")
    if "attn_mask" in call:
        call.broadcast([*shared, query[-2], key[-2]], call["attn_mask"])
    return [[*shared, query[-2], value[-1]]]

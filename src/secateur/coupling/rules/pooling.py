"""Pooling, resampling and padding: spatial dims change size, all others pass through."""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import EMPTY, Expr, MisalignedError, total
from secateur.graph.trait import Trait
from secateur.graph.unify import split

_SAMPLES = {
    "aten.max_pool{0}d": "F.max_pool{0}d(T(2, 3{1}), 2)",
    "aten.max_pool{0}d_with_indices": "torch.ops.aten.max_pool{0}d_with_indices(T(2, 3{1}), [2])",
    "aten.avg_pool{0}d": "F.avg_pool{0}d(T(2, 3{1}), 2, padding=1)",
    "aten.adaptive_avg_pool{0}d": "F.adaptive_avg_pool{0}d(T(2, 3{1}), 2)",
    "aten.adaptive_max_pool{0}d": "F.adaptive_max_pool{0}d(T(2, 3{1}), 2)",
    "aten.upsample_nearest{0}d": "F.interpolate(T(2, 3{1}), scale_factor=2)",
    "aten._upsample_nearest_exact{0}d": "F.interpolate(T(2, 3{1}), scale_factor=2, mode='nearest-exact')",
    "aten.reflection_pad{0}d": "torch.ops.aten.reflection_pad{0}d(T(2, 3{1}), [1] * 2 * {0})",
    "aten.replication_pad{0}d": "torch.ops.aten.replication_pad{0}d(T(2, 3{1}), [1] * 2 * {0})",
}
_SPATIAL: dict[str, tuple[int, str]] = {
    op.format(rank): (rank, sample.format(rank, ", 4" * rank))
    for op, sample in _SAMPLES.items()
    for rank in (1, 2, 3)
}
_SPATIAL |= {
    "aten.upsample_linear1d": (1, "F.interpolate(T(2, 3, 4), scale_factor=2, mode='linear')"),
    "aten.upsample_bilinear2d": (2, "F.interpolate(T(2, 3, 4, 4), scale_factor=2, mode='bilinear')"),
    "aten.upsample_bicubic2d": (2, "F.interpolate(T(2, 3, 4, 4), scale_factor=2, mode='bicubic')"),
    "aten.upsample_trilinear3d": (3, "F.interpolate(T(2, 3, 4, 4, 4), scale_factor=2, mode='trilinear')"),
    "aten._upsample_bilinear2d_aa": (
        2,
        "F.interpolate(T(2, 3, 8, 8), scale_factor=0.5, mode='bilinear', antialias=True)",
    ),
    "aten._upsample_lanczos2d_aa": (
        2,
        "torch.ops.aten._upsample_lanczos2d_aa(T(2, 3, 8, 8), [4, 4], False)",
    ),
    "aten._upsample_bicubic2d_aa": (
        2,
        "F.interpolate(T(2, 3, 8, 8), scale_factor=0.5, mode='bicubic', antialias=True)",
    ),
}


def _numbers_in(op: str) -> Trait:
    """What the numbers of the result are: some of the operand's, or new ones."""
    if "max_pool" in op:
        return Trait.SELECTS
    return Trait.REPEATS if "nearest" in op or op.endswith(("pad1d", "pad2d", "pad3d")) else Trait.NONE


@rule(
    *_SPATIAL,
    law="x(... h w) -> (... y x): the spatial dims are protected, the others pass",
    samples={op: sample for op, (_, sample) in _SPATIAL.items()},
    traits={op: Trait.RESAMPLES | _numbers_in(op) for op in _SPATIAL},
)
def resample(call: Call) -> list[list[Expr]]:
    """The last one, two or three dims are spatial."""
    rank = _SPATIAL[call.node.op][0]
    _, dims = next(call.operands())
    for dim in dims[-rank:]:
        call.protect(dim, "a spatial dim", structural=True)
    return [
        dims[:-rank] + [call.fixed(size, "a spatial dim", structural=True) for size in shape[-rank:]]
        for shape in call.out_shapes()
    ]


@rule(
    "aten.pad",
    "aten.constant_pad_nd",
    law="constant padding concatenates fixed positions; other modes protect the padded dims",
    samples={
        "aten.pad": "F.pad(T(2, 3, 4, 4), (1, 1, 0, 2, 1, 2))",
        "aten.constant_pad_nd": "torch.constant_pad_nd(T(2, 5, 4), (0, 0, -1, 2))",
    },
    traits=Trait.RESAMPLES,
    traits_if=lambda node: not node.args.get("value"),
)
def pad(call: Call) -> list[list[Expr]]:
    """Padding of any dims; negative amounts crop."""
    dims = list(call["self"])
    amounts = call.arg("pad")
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair : 2 * pair + 2]
        at = len(dims) - 1 - pair
        if not (before or after):
            continue
        size = dims[at].size + before + after
        if call.arg("mode", "constant") != "constant":
            call.protect(dims[at], "padded with its own positions", structural=pair < len(dims) - 2)
            dims[at] = call.fixed(size, "padded with its own positions")
            continue
        dims[at] = _pad_constant(call, dims[at], before, after)
    return [dims]


def _pad_constant(call: Call, dim: Expr, before: int, after: int) -> Expr:
    size = dim.size + before + after
    try:
        cropped, dim = split(dim, max(-before, 0), call.node)
        dim, cropped_after = split(dim, dim.size - max(-after, 0), call.node)
    except MisalignedError as error:
        call.protect(dim, str(error))
        return call.fixed(size, str(error))
    for part in (cropped, cropped_after):
        if part is not EMPTY:
            call.protect(part, "cropped by a fixed number of positions")
    padding = [call.fixed(max(amount, 0), "padding", structural=True) for amount in (before, after)]
    return total(padding[0], dim, padding[1])

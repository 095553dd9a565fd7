"""Reading maps at places that are computed: spatial dims stay, channels pass.

grid_sample     y[n, c, y, x] = u[n, c, grid[n, y, x]]
roi_align       y[k, c, p, q] = u[box k's image, c, bin (p, q) of box k]
deform_conv2d   y[n, (g o), y, x] = sum over i, p, q of  w[(g o), i, p, q] * u[n, (g i), p, q moved by offset]
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr, MisalignedError
from secateur.graph.equation import parse
from secateur.graph.trait import Trait
from secateur.graph.unify import factor

_SPATIAL = "a spatial dim"

_GRIDS = {
    "aten.grid_sampler": "F.grid_sample(T(2, 3, 4, 4), T(2, 5, 6, 2), align_corners=False)",
    "aten.grid_sampler_2d": "torch.ops.aten.grid_sampler_2d(T(2, 3, 4, 4), T(2, 5, 6, 2), 0, 0, False)",
    "aten.grid_sampler_3d": "torch.ops.aten.grid_sampler_3d(T(2, 3, 4, 4, 4), T(2, 2, 2, 2, 3), 0, 0, False)",
}


@rule(*_GRIDS, law="input(n c h w), grid(n y x 2) -> (n c y x): h, w and the 2 stay", samples=_GRIDS)
def grid_sample(call: Call) -> list[list[Expr]]:
    """Interpolation at the places of a grid."""
    batch, channels, *spatial = call["input"]
    first, *places, coordinates = call["grid"]
    for dim in (*spatial, coordinates):
        call.protect(dim, _SPATIAL, structural=True)
    call.equate(batch, first)
    return [[batch, channels, *places]]


@rule(
    "aten.affine_grid_generator",
    law="theta(n 2 3) -> (n h w 2): all but n stay; the number of images follows",
    samples=("F.affine_grid(T(2, 2, 3), (2, 3, 4, 4), align_corners=False)",),
)
def affine_grid(call: Call) -> list[list[Expr]]:
    """The places of an affinely moved grid."""
    batch, *matrix = call["theta"]
    for dim in matrix:
        call.protect(dim, _SPATIAL, structural=True)
    call.literal(("size", 0), batch)
    return [[batch, *(call.fixed(size, _SPATIAL, structural=True) for size in call.out_shape()[1:])]]


_ROIS = {
    "torchvision.roi_align": "torchvision.ops.roi_align({}, 2)",
    "torchvision.roi_pool": "torchvision.ops.roi_pool({}, 2)",
}
_ROI_ARGS = "T(1, 3, 6, 6), torch.cat([torch.zeros(4, 1).double(), T(4, 4).abs().cumsum(1)], 1)"


@rule(
    *_ROIS,
    law="input(n c h w), rois(k 5) -> (k c p q): boxes are cut out by number, all but k and c stay",
    samples={op: sample.format(_ROI_ARGS) for op, sample in _ROIS.items()},
    traits={"torchvision.roi_pool": Trait.SELECTS},
)
def boxes(call: Call) -> list[list[Expr]]:
    """Boxes cut out of maps."""
    batch, channels, *spatial = call["input"]
    count, numbers = call["rois"]
    call.protect(batch, "images are addressed by number")
    for dim in (*spatial, numbers):
        call.protect(dim, _SPATIAL, structural=True)
    return [
        [count, channels, *(call.fixed(size, _SPATIAL, structural=True) for size in shape[2:])]
        for shape in call.out_shapes()
    ]


_SENSITIVE = {
    "torchvision.ps_roi_align": "torchvision.ops.ps_roi_align({}, 2)",
    "torchvision.ps_roi_pool": "torchvision.ops.ps_roi_pool({}, 2)",
}


@rule(
    *_SENSITIVE,
    law="input(n c h w), rois(k 5) -> (k o p q): every bin reads channels of its own, all but k stay",
    samples={op: sample.format(_ROI_ARGS.replace("1, 3", "1, 8", 1)) for op, sample in _SENSITIVE.items()},
)
def sensitive_boxes(call: Call) -> list[list[Expr]]:
    """Position-sensitive pooling: channels are addressed by the bin's number."""
    count, numbers = call["rois"]
    for dim in (*call["input"], numbers):
        call.protect(dim, "channels are addressed by number")
    reason = "channels are addressed by number"
    return [[count, *(call.fixed(size, reason) for size in shape[1:])] for shape in call.out_shapes()]


_DEFORMED = (
    "input(n (g i) h w), weight((g o) i p q), bias((g o)) -> (n (g o) y x)",
    "n g o i p q y x",
)


@rule(
    "torchvision.deform_conv2d",
    law=f"{_DEFORMED[0]}; offset(n (2 k) y x) and mask(n k y x) say where to read, k stays; each offset "
    "group serves equally many channels",
    samples=(
        "torchvision.ops.deform_conv2d("
        "T(2, 3, 5, 5), T(2, 18, 3, 3), T(4, 3, 3, 3), T(4), mask=T(2, 9, 3, 3))",
        "torchvision.ops.deform_conv2d(T(2, 6, 5, 5), T(2, 36, 3, 3), T(4, 3, 3, 3))",
    ),
    macs=_DEFORMED[1],
)
def deform_conv(call: Call) -> list[list[Expr]]:
    """A convolution whose taps are moved, each offset group for its own block of channels."""
    channels = call["input"][1]
    groups = call.arg("offset_groups")
    if groups > 1:
        try:
            outer, _ = factor(channels, channels.size // groups, call.node)
            call.protect(outer, "each block of channels has offsets of its own")
        except MisalignedError as error:
            call.protect(channels, str(error))
    (result,) = call.equation(parse(_DEFORMED[0]), macs=_DEFORMED[1], sizes={"g": "groups"})
    for name in ("offset", "mask"):
        batch, *rest = call[name]
        call.equate(batch, result[0])
        for dim in rest:
            call.protect(dim, "a place to read", structural=True)
    return [result]

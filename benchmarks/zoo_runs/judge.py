"""An independent judge: is a pruned network equal to the original whose removed parts are masked?

It uses nothing that a library says about its work. Before the run every floating parameter and buffer gets
random values (`randomise`). Afterwards the judge finds by these values which positions of each tensor stayed
(`kept_positions`), sets the removed entries of the original to zero (what makes a removed channel, and what
reads it), and compares both networks in float64 on random inputs (`judge`).

Limits. Removing a channel changes the statistics of a norm over channels, which zeros do not, so the masked
original is run twice: as it is, and with norms, means and variances taken over the positions that are not
zero throughout; a network that equals either is right. A right cut is called unequal where a removed channel
is not silent although all its parameters are zero: a sigmoid gives 0.5, and a mean or a product of
activations sees it. A tensor with repeated values, or one that a library computes anew, cannot be traced.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from operator import gt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_runs.inputs import as_call, map_tensors, output_tensors

TOLERANCE = 1e-6
"""Relative; right networks show 1e-15 (1e-7 where a model computes in float32), wrong ones 5e-3 to 3."""

_TRIES = 100
"""How often values that stand twice in a vector are drawn again."""

_ANCHORS = 8
"""How many entries of a tensor are looked up."""

_GOLDEN = 0.618034

_ATEN = torch.ops.aten


@dataclass(frozen=True)
class Judgement:
    """What the judge found.

    Attributes:
        outcome: "equal", "renormalised" (equal with statistics over the kept positions), "unequal",
            "fails" (the pruned network does not run), "untraced" (no reference can be made), or
            "vacuous" (the outputs are empty or zero).
        relative_error: Of the closer reference; None if nothing was compared.
        why: What failed, or which tensor cannot be traced.
    """

    outcome: str
    relative_error: float | None = None
    why: str = ""


def randomise(model: nn.Module, seed: int) -> None:
    """Give every floating parameter and buffer random values, in place; vectors get no value twice.

    Matrices keep the scale of 1/sqrt(fan in); vectors are spread around their values; positive ones
    (variances) stay positive, tiny ones (layer scales) become about one; infinities (attention masks) and
    integers stay.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in {id(held): held for held in [*model.parameters(), *model.buffers()]}.values():
            if not tensor.is_floating_point() or not tensor.numel() or not bool(tensor.isfinite().all()):
                continue
            tensor.copy_(_draw(tensor, isinstance(tensor, nn.Parameter), generator))


def _draw(tensor: Tensor, is_parameter: bool, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() > 1 and is_parameter:
        return noise / math.sqrt(tensor[0].numel())
    centre = tensor.float()
    is_positive = bool((tensor > 0).all())
    if is_positive and is_parameter and float(centre.max()) < 0.1:
        centre = torch.ones_like(centre)  # a layer scale of 1e-6 would hide its whole block
    drawn = _spread(centre, noise, is_positive)
    for _ in range(_TRIES if tensor.dim() == 1 else 0):
        again = _repeated(drawn)
        if not len(again):
            break
        drawn[again] = _spread(centre[again], torch.randn(len(again), generator=generator), is_positive)
    return drawn


def _spread(centre: Tensor, noise: Tensor, is_positive: bool) -> Tensor:
    return centre * torch.exp(0.5 * noise.tanh()) if is_positive else centre + 0.3 * noise


def _repeated(values: Tensor) -> Tensor:
    """Where a value stands that stood before."""
    ordered, order = values.sort()
    return order[1:][ordered[1:] == ordered[:-1]]


def kept_positions(full: Tensor, cut: Tensor) -> list[Tensor] | None:
    """Find by value which positions of each dim stayed.

    Args:
        full: The tensor before, with (nearly) no value twice.
        cut: What became of it.

    Returns:
        For each dim the indices, ascending; None if `cut` is no part of `full`.

    Example:
        >>> full = torch.arange(12.0).view(3, 4)
        >>> [index.tolist() for index in kept_positions(full, full[[0, 2]][:, [1, 2, 3]])]
        [[0, 2], [1, 2, 3]]
    """
    if full.dim() != cut.dim() or not cut.numel() or any(map(gt, cut.shape, full.shape)):
        return None
    index = [torch.ones(size, dtype=torch.bool) for size in full.shape]
    for turn in range(_ANCHORS):
        place = tuple(int(size * (turn * _GOLDEN ** (dim + 1) % 1)) for dim, size in enumerate(cut.shape))
        lines = _lines_through(full, cut, place)
        if lines is None:
            return None
        index = [one & two for one, two in zip(index, lines, strict=True)]
        kept = [mask.nonzero()[:, 0] for mask in index]
        if [len(one) for one in kept] == list(cut.shape):
            return kept if torch.equal(_take(full, kept), cut) else None
    return None


def _lines_through(full: Tensor, cut: Tensor, place: tuple[int, ...]) -> list[Tensor] | None:
    """For each dim, the positions whose value on the line through a place occurs in the cut tensor's line.

    A few more than those that stayed, where a value occurs twice.
    """
    for found in (full == cut[place]).nonzero():
        masks = []
        for dim in range(full.dim()):
            line = full[tuple(slice(None) if at == dim else int(found[at]) for at in range(full.dim()))]
            part = cut[tuple(slice(None) if at == dim else place[at] for at in range(full.dim()))]
            if not bool(torch.isin(part, line).all()):
                break
            masks.append(torch.isin(line, part))
        else:
            return masks
    return None


def _take(full: Tensor, index: list[Tensor]) -> Tensor:
    for dim, kept in enumerate(index):
        if len(kept) < full.shape[dim]:
            full = full.index_select(dim, kept)
    return full


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def mask_like(original: nn.Module, pruned: nn.Module) -> str | None:
    """Set to zero, in place, every entry of the original that the pruned network no longer has.

    Tied tensors are untied first: a library may have cut one name of them and not the other. Integers (tables
    of positions) stay: they cannot be traced, and what they point at is zero.

    Returns:
        Why that cannot be done; None if it is.
    """
    _untie(original)
    after = _tensors(pruned)
    with torch.no_grad():
        for name, full in _tensors(original).items():
            cut = after.get(name)
            if cut is None:
                return f"{name} is gone"
            if not full.is_floating_point() or not full.numel():
                continue
            if full.shape == cut.shape:
                if not torch.equal(full, cut) and bool(full.isfinite().all()):
                    return f"{name} has new values"
                continue
            index = kept_positions(full, cut)
            if index is None:
                return f"{name} {list(full.shape)} does not hold what it became, {list(cut.shape)}"
            for dim, kept in enumerate(index):
                gone = torch.ones(full.shape[dim], dtype=torch.bool)
                gone[kept] = False
                full.index_fill_(dim, gone.nonzero()[:, 0], 0)
    return None


def _untie(model: nn.Module) -> None:
    """Give every name its own tensor."""
    seen: set[int] = set()
    for name, tensor in _tensors(model).items():
        if id(tensor) in seen:
            module, _, leaf = name.rpartition(".")
            copied = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            setattr(model.get_submodule(module), leaf, nn.Parameter(copied) if is_parameter else copied)
        seen.add(id(tensor))


class OverKept(TorchDispatchMode):
    """Takes means, variances and norms over the positions that are not zero throughout."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the operators that take statistics over a dim."""
        kwargs = kwargs or {}
        if func is _ATEN.layer_norm.default:
            return _layer_norm(*args, **kwargs)
        if func is _ATEN.rms_norm.default:
            return _rms_norm(*args, **kwargs)
        if func is _ATEN.group_norm.default:
            return _group_norm(*args, **kwargs)
        if func is _ATEN.batch_norm.default and args[5]:
            return _batch_norm(*args)
        if func is _ATEN.sub.Tensor and not kwargs:
            return _centred(*args)
        if func in (_ATEN.mean.dim, _ATEN.var.dim, _ATEN.var.correction, _ATEN.std.correction):
            dims = args[1] if len(args) > 1 else kwargs.get("dim")
            if dims is not None:
                return func(_without_silent(args[0], dims), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _alive(tensor: Tensor, dim: int) -> Tensor:
    """The positions of a dim that are not zero throughout; all of them if none is."""
    others = [at for at in range(tensor.dim()) if at != dim % tensor.dim()]
    alive = (tensor != 0).any(dim=others) if others else tensor != 0
    return alive.nonzero()[:, 0] if bool(alive.any()) else torch.arange(len(alive))


def _without_silent(tensor: Tensor, dims: Any) -> Tensor:
    for dim in [dims] if isinstance(dims, int) else dims:
        tensor = tensor.index_select(dim, _alive(tensor, dim))
    return tensor


def _centred(tensor: Any, other: Any) -> Tensor:
    """Subtract; in `x - x.mean(dim, keepdim=True)` the silent positions of the dim stay silent."""
    result = tensor - other
    if isinstance(tensor, Tensor) and isinstance(other, Tensor) and tensor.dim() == other.dim():
        dims = [at for at, size in enumerate(tensor.shape) if other.shape[at] != size]
        if all(other.shape[at] == 1 for at in dims):
            for dim in dims:
                result = _silence(result, tensor, dim)
    return result


def _silence(result: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Set to zero what is zero throughout in another tensor."""
    silent = torch.ones(tensor.shape[dim], dtype=torch.bool)
    silent[_alive(tensor, dim)] = False
    return result.index_fill(dim, silent.nonzero()[:, 0], 0)


def _layer_norm(
    tensor: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    dims = list(range(-len(shape), 0))
    part = _without_silent(tensor, dims)
    scaled = (tensor - part.mean(dims, keepdim=True)) / (
        part.var(dims, keepdim=True, correction=0) + eps
    ).sqrt()
    for dim in dims:
        scaled = _silence(scaled, tensor, dim)
    scaled = scaled * weight if weight is not None else scaled
    return scaled + bias if bias is not None else scaled


def _batch_norm(
    tensor: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    drift: float,
    eps: float,
    _: Any,
) -> Tensor:
    """Batch norm by the statistics of the tensor itself, as where a weight is standardised."""
    dims = [dim for dim in range(tensor.dim()) if dim != 1]
    part = _without_silent(tensor, dims)
    scaled = (tensor - part.mean(dims, keepdim=True)) / (
        part.var(dims, keepdim=True, correction=0) + eps
    ).sqrt()
    for dim in dims:
        scaled = _silence(scaled, tensor, dim)
    return _scaled_per_channel(scaled, weight, bias)


def _scaled_per_channel(scaled: Tensor, weight: Any, bias: Any) -> Tensor:
    per_channel = (1, -1, *([1] * (scaled.dim() - 2)))
    scaled = scaled * weight.view(per_channel) if weight is not None else scaled
    return scaled + bias.view(per_channel) if bias is not None else scaled


def _rms_norm(tensor: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    dims = list(range(-len(shape), 0))
    eps = torch.finfo(tensor.dtype).eps if eps is None else eps
    scaled = tensor / (_without_silent(tensor, dims).square().mean(dims, keepdim=True) + eps).sqrt()
    return scaled * weight if weight is not None else scaled


def _group_norm(
    tensor: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    shape = (len(tensor), groups, tensor.shape[1] // groups, -1)
    parts = []
    for part in tensor.reshape(shape).unbind(1):
        alive = part.index_select(1, _alive(part, 1))
        scaled = (part - alive.mean((1, 2), keepdim=True)) / (
            alive.var((1, 2), keepdim=True, correction=0) + eps
        ).sqrt()
        parts.append(_silence(scaled, part, 1))
    return _scaled_per_channel(torch.stack(parts, 1).reshape(tensor.shape), weight, bias)


def _outputs(model: nn.Module, inputs: Any, mode: TorchDispatchMode | None = None) -> list[Tensor]:
    """The tensors of the output, with the same random numbers for models that draw some."""
    args, kwargs = as_call(map_tensors(inputs, torch.clone))
    torch.manual_seed(0)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), mode or nullcontext():
            return output_tensors(model(*args, **kwargs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _relative_error(expected: list[Tensor], got: list[Tensor]) -> float:
    worst = math.inf if len(expected) != len(got) else 0.0
    for one, two in zip(expected, got, strict=False):
        if one.shape != two.shape:
            return math.inf
        if not one.numel():
            continue
        one, two = one.double(), two.double()
        finite = one.isfinite()
        if not torch.equal(finite, two.isfinite()) or not bool(finite.any()):
            return math.inf
        scale = float(one[finite].abs().max()) or 1.0
        worst = max(worst, float((one - two)[finite].abs().max()) / scale)
    return worst


def judge(original: nn.Module, pruned: nn.Module, example_inputs: Any, seed: int) -> Judgement:
    """Compare a pruned network with the masked original; both are changed (masked, and cast to float64).

    Args:
        original: The network that was pruned, with the values of `randomise`.
        pruned: What became of it.
        example_inputs: Shapes and integers of the inputs; floating ones are drawn.
        seed: For the inputs.
    """
    why = mask_like(original.eval(), pruned.eval())
    failures = []
    for dtype, tolerance in ((torch.float64, TOLERANCE), (torch.float32, 100 * TOLERANCE)):
        inputs = _drawn(example_inputs, dtype, seed)
        try:
            expected = _outputs(original.to(dtype), inputs)
        except Exception as error:  # noqa: BLE001 - some models insist on float32 inside
            failures.append(f"the masked original in {dtype}: {_line(error)}")
            continue
        if not any(bool(output.isfinite().any()) for output in expected):
            failures.append(f"the masked original in {dtype} computes no finite number")
            continue
        try:
            got = _outputs(pruned.to(dtype), inputs)
        except Exception as error:  # noqa: BLE001 - a pruned network that does not run is a result
            return Judgement("fails", None, _line(error))
        if why is not None:
            return Judgement("untraced", None, why)
        if not any(bool(output.any()) for output in expected):
            return Judgement("vacuous", None, "the outputs are empty or zero")
        errors = {"equal": _relative_error(expected, got)}
        if errors["equal"] > tolerance:
            errors["renormalised"] = _relative_error(_outputs(original, inputs, OverKept()), got)
        best = min(errors, key=errors.__getitem__)
        return Judgement(best if errors[best] <= tolerance else "unequal", errors[best])
    return Judgement("untraced", None, "; ".join(failures))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _drawn(example_inputs: Any, dtype: torch.dtype, seed: int) -> Any:
    """Random inputs of the same shapes; integers stay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator).to(dtype)

    return map_tensors(example_inputs, draw)

"""The proof by number: masked(x) == cut(x).

The reference is the original model, its own Python, on full-size tensors, in which removed positions
contribute nothing: in the parameters and after every operator they are set to zero, so that no consumer sees
them; operators that take statistics over a cut axis see the kept positions only. In float64, with the real
parameters and with randomised ones (default initialisation hides wrong cuts at 1e-6; a wrong cut shows 0.005
to 3).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.capture import Step, as_call, cast_inputs, follow
from secateur.capture.copies import copy_module
from secateur.capture.inputs import map_inputs, output_tensors, state_names
from secateur.capture.recorder import recording_context
from secateur.coupling import Groups
from secateur.errors import PathError
from secateur.graph.axes import Axis, Expr, leaves
from secateur.graph.keep import Mask, count, keep_mask
from secateur.graph.node import Graph, Ref

TOLERANCE = 1e-9
"""Largest relative error of a right cut in float64; right ones show 1e-15."""

_LOOSE_TOLERANCE = 1e-4

Make: TypeAlias = Callable[[], nn.Module]
"""Makes a model anew; the user of what it makes may change it."""


def compare_numbers(
    make: Make,
    cut: nn.Module,
    example_inputs: Any,
    groups: Groups,
    keep: Mapping[Axis, Mask],
    seed: int | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[float, float]:
    """Compare a cut model with the masked original on random inputs.

    Args:
        make: Makes the original anew; each result is masked in place and let go before the cut model runs.
        cut: The cut model with the same parameter values; not changed.
        example_inputs: Inputs whose shapes and integer values are used.
        groups: The groups of the original.
        keep: A mask for each cut axis.
        seed: For the random inputs; None for the example inputs themselves.
        dtype: The precision to compute in.

    Returns:
        The relative error, and the tolerance for the precision that the model computes in.

    Raises:
        PathError: The original takes another path than in its record. Where numbers decide the path, pass
            groups of a record on the same numbers (`regroup`).
    """
    return compare_runs(
        lambda: mask_model(make(), groups, keep, dtype),
        cut,
        example_inputs,
        groups.graph,
        Masker(groups, keep),
        seed,
        dtype,
    )


def mask_model(
    model: nn.Module, groups: Groups, keep: Mapping[Axis, Mask], dtype: torch.dtype = torch.float64
) -> nn.Module:
    """Put a model in eval mode and set the removed positions of its parameters to zero, in place.

    What reads a removed channel reads it with weight zero, so this alone computes what the cut model does,
    statistics over a cut axis excepted.

    Args:
        model: A copy of the original; changed.
        groups: Its groups.
        keep: A mask for each cut axis.
        dtype: The precision to put it in.

    Returns:
        The model itself.
    """
    Masker(groups, keep).mask_parameters(model.to(dtype).eval())
    return model


def compare_runs(
    make_reference: Make,
    cut: nn.Module,
    example_inputs: Any,
    graph: Graph,
    on_step: Callable[[Step], Any],
    seed: int | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[float, float]:
    """Compare a cut model with a reference that is run step by step, on random inputs.

    Args:
        make_reference: Makes the reference, in the precision and in eval mode; it is let go before the cut
            model runs, as large ones do not fit side by side.
        cut: The cut model; not changed.
        example_inputs: Inputs whose shapes and integer values are used.
        graph: The record of the original.
        on_step: What the reference computes at each operator.
        seed: For the random inputs; None for the example inputs themselves.
        dtype: The precision to compute in.

    Returns:
        The relative error, and the tolerance for the precision that the model computes in.

    Raises:
        PathError: The original takes another path than in its record.
    """
    inputs = drawn_inputs(example_inputs, seed, dtype)
    reference = make_reference()
    state = state_names(reference)
    with _same_draws(seed):
        expected = output_tensors(follow(reference, _copy(inputs), graph, on_step), state)
    del reference
    args, kwargs = as_call(_copy(inputs))
    with recording_context(), _same_draws(seed):
        got = output_tensors(copy_module(cut).to(dtype).eval()(*args, **kwargs), state)
    error = max(_relative_error(one, two) for one, two in zip(expected, got, strict=True))
    lowest = min((one.dtype.itemsize for one in expected if one.is_floating_point()), default=8)
    return error, TOLERANCE if lowest >= 8 else _LOOSE_TOLERANCE


@contextmanager
def _same_draws(seed: int | None) -> Iterator[None]:
    """Give both runs the same random numbers, for models that draw some in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        yield


def _copy(inputs: Any) -> Any:
    return map_inputs(inputs, torch.clone)


def drawn_inputs(example_inputs: Any, seed: int | None, dtype: torch.dtype) -> Any:
    """Random inputs like the example; without a seed the example itself, in another precision."""
    inputs = cast_inputs(example_inputs, dtype)
    if seed is None:
        return inputs
    generator = torch.Generator().manual_seed(seed)
    return map_inputs(inputs, lambda leaf: random_like(leaf, generator).to(leaf.dtype))


def random_like(leaf: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in float64 in place of a floating tensor; others stay."""
    if not leaf.is_floating_point():
        return leaf
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64, device="cpu").to(leaf.device)


def _relative_error(expected: Tensor, got: Tensor) -> float:
    """Largest difference over the largest finite value; infinities and NaN must lie at the same places.

    Random parameters can push a model's own logarithm or root out of its domain; that is no fault of a cut.
    """
    if expected.shape != got.shape:
        return float("inf")
    expected, got = expected.double(), got.double()
    finite = expected.isfinite()
    if not torch.equal(torch.nan_to_num(expected[~finite], 7.0), torch.nan_to_num(got[~finite], 7.0)):
        return float("inf")
    if not bool(finite.any()):
        return float("nan") if expected.numel() else 0.0
    scale = float(expected[finite].abs().max())
    error = float((expected - got)[finite].abs().max())
    return error / scale if scale > 0 else error


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Copy a model in float64 with random parameters and buffers.

    Weights keep the scale of 1/sqrt(fan in), so that deep networks neither vanish nor explode; vectors are
    spread around their values; positive tensors (variances) stay positive; integer buffers stay.

    Args:
        model: The model; not changed.
        seed: For the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    result = copy_module(model).double()
    with torch.no_grad():
        for tensor in {id(held): held for held in [*result.parameters(), *result.buffers()]}.values():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            if tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
                _draw_weights(tensor, generator)
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
            noise = noise.to(tensor.device)
            if bool((tensor > 0).all()):
                tensor.mul_(torch.exp(0.3 * noise.clamp(-2, 2)))
            elif bool(torch.isfinite(tensor).all()):
                tensor.add_(0.3 * noise)
    return result


def _draw_weights(weights: Tensor, generator: torch.Generator) -> None:
    """Fill with uniform numbers of variance 1 / fan in: four times faster to draw than normal ones."""
    bound = (3 / max(weights[0].numel(), 1)) ** 0.5
    if weights.device.type == "cpu":
        weights.uniform_(-bound, bound, generator=generator)
    else:
        drawn = torch.empty(weights.shape, dtype=weights.dtype, device="cpu")
        weights.copy_(drawn.uniform_(-bound, bound, generator=generator))


class Masker:
    """Runs every operator of the original and sets removed positions of its results to zero."""

    def __init__(self, groups: Groups, keep: Mapping[Axis, Mask]) -> None:
        self.groups = groups
        self.keep = keep
        self.changed = {held: int(mask.sum()) for held, mask in keep.items() if not mask.all()}

    def __call__(self, step: Step) -> Any:
        """Run one operator."""
        statistics = self.groups.findings.renormalised.get(step.node.index, [])
        if any(self._is_cut(expr) for expr in statistics):
            return self._over_kept(step)
        output = step.run()
        if len(results_of(output)) != len(step.node.outputs):
            raise PathError(f"another number of results than in its record: {step.node}")
        for ref, tensor in zip(step.node.outputs, results_of(output), strict=True):
            if isinstance(tensor, Tensor) and ref is not None and not _is_view(step, tensor):
                self._mask(tensor, self.groups.findings.dims[ref.value])
        return output

    def mask_parameters(self, model: nn.Module) -> None:
        """Set removed positions of parameters to zero, for what is computed from parameters alone."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.is_floating_point():
                    self._mask(parameter, self.groups.dims(name))

    def _is_cut(self, expr: Expr) -> bool:
        return any(leaf in self.changed for leaf in leaves(expr))

    def _masks(self, dims: list[Expr]) -> list[Mask]:
        return [keep_mask(dim, self.keep) for dim in dims]

    def _mask(self, tensor: Tensor, dims: list[Expr]) -> None:
        for at, dim in enumerate(dims):
            if self._is_cut(dim):
                gone = torch.from_numpy((~keep_mask(dim, self.keep)).nonzero()[0]).to(tensor.device)
                tensor.index_fill_(at, gone, 0)

    def _over_kept(self, step: Step) -> Any:
        """Run an operator on the kept positions alone and put its results back in place."""
        named = {name: self._slice(name, value, step) for name, value in step.named().items()}
        output = step.func(**named)
        full = []
        for ref, tensor in zip(step.node.outputs, results_of(output), strict=True):
            assert ref is not None, "operators with statistics return tensors"
            dims = self.groups.findings.dims[ref.value]
            masks = self._masks(dims)
            sizes = [
                size if mask.all() else len(mask) for mask, size in zip(masks, tensor.shape, strict=True)
            ]
            kept = [torch.arange(size, device="cpu") for size in sizes]
            for at, mask in enumerate(masks):
                if not mask.all():
                    kept[at] = torch.from_numpy(mask.nonzero()[0])
            place = tensor.new_zeros(sizes)
            place[torch.meshgrid(*kept, indexing="ij") if kept else ()] = tensor
            full.append(place)
        return type(output)(full) if isinstance(output, (tuple, list)) else full[0]

    def _slice(self, name: str, value: Any, step: Step) -> Any:
        if isinstance(value, Tensor):
            ref = step.node.args[name]
            assert isinstance(ref, Ref), "the record holds a reference where the run holds a tensor"
            for at, mask in enumerate(self._masks(self.groups.findings.dims[ref.value])):
                if not mask.all():
                    value = value.index_select(at, torch.from_numpy(mask.nonzero()[0]).to(value.device))
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(self._size((name, at), item, step) for at, item in enumerate(value))
        return self._size((name,), value, step)

    def _size(self, path: tuple[Any, ...], value: Any, step: Step) -> Any:
        expr = self.groups.findings.literals.get((step.node.index, path))
        return count(expr, self.changed) if expr is not None and self._is_cut(expr) else value


def results_of(output: Any) -> list[Any]:
    """The results of an operator as one list."""
    if not isinstance(output, (tuple, list)):
        return [output]
    return [part for item in output for part in (item if isinstance(item, (tuple, list)) else (item,))]


def _is_view(step: Step, tensor: Tensor) -> bool:
    """A view shows memory that is masked already; an in-place result is no view here."""
    if step.node.op.endswith("_"):
        return False
    memory = tensor.untyped_storage().data_ptr()
    return any(
        isinstance(arg, Tensor) and arg.untyped_storage().data_ptr() == memory
        for arg in results_of(step.args)
    )

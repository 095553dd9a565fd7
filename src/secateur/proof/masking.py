"""The reference of a proof: the original, in which the removed positions contribute nothing.

It is the original's own Python on full-size tensors, and knows nothing of the cutter: in the parameters and
after every operator the removed positions are set to zero, so that no consumer sees them; operators that
take statistics over a cut axis see the kept positions only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import Step
from secateur.coupling import Groups
from secateur.errors import PathError
from secateur.graph.axes import Expr
from secateur.graph.keep import Kept
from secateur.graph.node import Ref
from secateur.proof.draws import run


def mask_model(model: nn.Module, groups: Groups, kept: Kept, dtype: torch.dtype) -> nn.Module:
    """Put a model in eval mode and set the removed positions of its parameters to zero, in place.

    What reads a removed channel reads it with weight zero, so this alone computes what the cut model does,
    statistics over a cut axis excepted.

    Args:
        model: A copy of the original; changed.
        groups: Its groups.
        kept: What stays of each axis.
        dtype: The precision to put it in.

    Returns:
        The model itself.
    """
    Masker(groups, kept).mask_parameters(model.to(dtype).eval())
    return model


class Masker:
    """Runs every operator of the original and sets removed positions of its results to zero."""

    def __init__(self, groups: Groups, kept: Kept) -> None:
        self.groups = groups
        self.kept = kept
        self._indices: dict[tuple[int, torch.device], tuple[Expr, Tensor, Tensor]] = {}

    def __call__(self, step: Step) -> Any:
        """Run one operator."""
        statistics = self.groups.findings.renormalised.get(step.node.index, [])
        if any(self.kept.cuts(expr) for expr in statistics):
            return self._over_kept(step)
        output = run(step)
        if len(results_of(output)) != len(step.node.outputs):
            raise PathError(f"another number of results than in its record: {step.node}")
        for ref, tensor in zip(step.node.outputs, results_of(output), strict=True):
            if isinstance(tensor, Tensor) and ref is not None and not _is_view(step, tensor):
                self._mask(tensor, self.groups.findings.dims[ref.value])
        return output

    def mask_parameters(self, model: nn.Module) -> None:
        """Set removed positions of parameters to zero, for what is computed from parameters alone."""
        with torch.no_grad():
            for name, held in model.named_parameters():
                if held.is_floating_point() or held.is_complex():
                    self._mask(held, self.groups.dims(name))

    def kept_of(self, value: int, tensor: Tensor) -> Tensor:
        """The kept positions of a recorded value; a view where nothing of it was cut."""
        tensor = tensor.resolve_conj().resolve_neg()  # inside a dispatch, operators do not look at these bits
        for at, dim in enumerate(self.groups.findings.dims[value]):
            if self.kept.cuts(dim):
                tensor = tensor.index_select(at, self._index(dim, tensor.device)[0])
        return tensor

    def cut_dims(self, value: int) -> list[int]:
        """The dims of a recorded value that lose positions."""
        return [at for at, dim in enumerate(self.groups.findings.dims[value]) if self.kept.cuts(dim)]

    def _index(self, dim: Expr, device: torch.device) -> tuple[Tensor, Tensor]:
        """The kept and the removed positions of a dim, on a device."""
        key = (id(dim), device)
        if key not in self._indices:
            stays, goes = self.kept.positions(dim), self.kept.removed(dim)
            self._indices[key] = dim, torch.from_numpy(stays).to(device), torch.from_numpy(goes).to(device)
        return self._indices[key][1:]

    def _mask(self, tensor: Tensor, dims: list[Expr]) -> None:
        for at, dim in enumerate(dims):
            if self.kept.cuts(dim):
                tensor.index_fill_(at, self._index(dim, tensor.device)[1], 0)

    def _over_kept(self, step: Step) -> Any:
        """Run an operator on the kept positions alone and put its results back in place."""
        named = {name: self._slice(name, value, step) for name, value in step.named().items()}
        written = {name: named[name].clone() for name in _written_beside(step)}
        output = step.func(**{**named, **written})
        if written:
            step.run()  # gives what it writes into the shape of all positions
            for name, part in written.items():
                self._put(
                    part, step.named()[name], self._dims_alike(step, step.named()[name].shape, part.shape)
                )
        full = []
        for ref, tensor in zip(step.node.outputs, results_of(output), strict=True):
            assert ref is not None, "operators with statistics return tensors"
            dims = self.groups.findings.dims[ref.value]
            sizes = [
                dim.size if self.kept.cuts(dim) else size
                for dim, size in zip(dims, tensor.shape, strict=True)
            ]
            full.append(self._put(tensor, tensor.new_zeros(sizes), dims))
        return type(output)(full) if isinstance(output, (tuple, list)) else full[0]

    def _put(self, part: Tensor, whole: Tensor, dims: Sequence[Expr | None]) -> Tensor:
        """Write the kept positions of a tensor."""
        places = [
            self._index(dim, part.device)[0]
            if dim is not None and self.kept.cuts(dim)
            else torch.arange(size, device=part.device)
            for dim, size in zip(dims, part.shape, strict=True)
        ]
        whole[torch.meshgrid(*places, indexing="ij") if places else ()] = part
        return whole

    def _dims_alike(self, step: Step, whole: Sequence[int], part: Sequence[int]) -> list[Expr | None]:
        """For each dim of what a call writes beside its result, the dim that it reads and that shrinks so."""
        read = [dim for value in step.node.reads for dim in self.groups.findings.dims[value]]
        return [
            next((dim for dim in read if dim.size == before and self.kept.count(dim) == after), None)
            if before != after
            else None
            for before, after in zip(whole, part, strict=True)
        ]

    def _slice(self, name: str, value: Any, step: Step) -> Any:
        if isinstance(value, Tensor):
            ref = step.node.args[name]
            assert isinstance(ref, Ref), "the record holds a reference where the run holds a tensor"
            return self.kept_of(ref.value, value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._size((name, at), item, step) for at, item in enumerate(value))
        return self._size((name,), value, step)

    def _size(self, path: tuple[Any, ...], value: Any, step: Step) -> Any:
        expr = self.groups.findings.literals.get((step.node.index, path))
        return self.kept.count(expr) if expr is not None and self.kept.cuts(expr) else value


def _written_beside(step: Step) -> list[str]:
    """The arguments that a call writes into beside its result, such as the ranges that an observer keeps."""
    if step.node.op.endswith("_"):
        return []
    marks = ((argument.name, argument.alias_info) for argument in step.func._schema.arguments)
    return [name for name, mark in marks if mark is not None and mark.is_write and name in step.named()]


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

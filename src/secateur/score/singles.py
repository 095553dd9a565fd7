"""Single samples: how the loss that each sample of a batch has alone depends on gates."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from secateur.capture.batches import Sample
from secateur.capture.inputs import map_inputs
from secateur.errors import RequestError
from secateur.score.gates import Gates
from secateur.score.loss import Objective
from secateur.score.split import Split
from secateur.score.taps import Taps

_CHUNK_BYTES = 1 << 28
"""What the gradients of the samples that are differentiated at once may take."""
_NEAR = 1e-3
"""How far, as a share of a group's largest, taps may be from a sample that is differentiated alone."""

ByGroup = dict[str, Tensor]


class Singles:
    """What the losses of single samples say of gates, batch by batch.

    A batch runs once, with taps, and its last sample alone: if that agrees, batches of this shape need no
    more. Parameters that the taps do not reach, or all where a sample disagrees, are differentiated for each
    sample.

    Args:
        objective: The loss.
        parameters: The values of the parameters.
        gates: By what to differentiate.
        with_squares: Also square every entry.
    """

    def __init__(
        self, objective: Objective, parameters: Mapping[str, Tensor], gates: Gates, *, with_squares: bool
    ) -> None:
        self.objective, self.parameters, self.gates = objective, parameters, gates
        self.with_squares = with_squares
        is_real = all(not parameter.is_complex() for parameter in parameters.values())
        self._orders = [False, True] if is_real else []
        self._seen: set[tuple[torch.Size, ...]] = set()

    def of(self, sample: Sample, split: Split) -> tuple[ByGroup, ByGroup]:
        """The derivatives by the gates, [samples, channels], and sums of squares, whose rows add up.

        Args:
            sample: The batch.
            split: How it falls into samples.
        """
        while self._orders and split.is_known:
            try:
                found = self._tapped(sample, split, are_inner=self._orders[0])
            except Exception:  # noqa: BLE001 - what cannot be tapped is differentiated sample by sample
                self._orders = []
                break
            if found is not None:
                return found
            self._orders = self._orders[1:]
        return self._each(sample, split, self.gates.margins())

    def _tapped(self, sample: Sample, split: Split, *, are_inner: bool) -> tuple[ByGroup, ByGroup] | None:
        """As `of`, by taps; None where they are not what a sample alone says."""
        size, margins = split.size(sample.inputs), self.gates.margins()
        leaves = {
            name: value.detach().requires_grad_(name in margins) for name, value in self.parameters.items()
        }
        counted = {name: leaves[name] for name in margins}
        taps = Taps(counted, margins, size, are_inner=are_inner, with_squares=self.with_squares)
        self.objective.renew()
        with taps.running():
            output = self.objective.run(leaves, map_inputs(sample.inputs, torch.clone), sample.target)
        loss = self.objective.total(output, sample.target, size, sample.number)
        if loss is None:
            return None
        wanted = [*counted.values(), *taps.ends]
        found = torch.autograd.grad(
            loss, wanted, allow_unused=True
        )  # `backward` would fill the user's `grad`
        rest = {name for name, gradient in zip(counted, found, strict=False) if gradient is not None}
        reached = self.gates.within(margins.keys() - rest)
        parts = [(reached.sums_of_margins(taps.margins), self._squares(reached, taps))]
        parts += [self._each(sample, split, rest)] if rest else []
        sums, squared = (_joined(found) for found in zip(*parts, strict=True))
        for name in (name for name, shares in self.gates.shares.items() if shares):  # the loss may read none
            sums.setdefault(name, loss.new_zeros(size, self.gates.sizes[name]))
            if self.with_squares:
                squared.setdefault(name, loss.new_zeros(1, self.gates.sizes[name]))
        return (sums, squared) if self._agrees(sums, sample, split) else None

    def _squares(self, reached: Gates, taps: Taps) -> ByGroup:
        if not self.with_squares:
            return {}
        return _rows(reached.within(taps.squares).sums(taps.squares))

    def _agrees(self, sums: ByGroup, sample: Sample, split: Split) -> bool:
        """Whether the last sample alone says the same; of each shape of batches one is asked."""
        form = tuple(leaf.shape for leaf in pytree.tree_leaves(sample.inputs) if isinstance(leaf, Tensor))
        if form in self._seen:
            return True
        entries = self._alone(sample, split, split.size(sample.inputs) - 1, self.gates.margins())
        alone = self.gates.sums(entries)
        largest = max((float(found.abs().max()) for found in alone.values()), default=0.0)
        short = any(value.dtype.itemsize < 4 for value in self.parameters.values())
        near = 50 * _NEAR if short else _NEAR
        do_agree = all(
            bool((sums[name][-1] - found).abs().max() <= near * (found.abs().max() + _NEAR * largest))
            for name, found in alone.items()
        )
        if do_agree:
            self._seen.add(form)
        return do_agree

    def _each(self, sample: Sample, split: Split, names: Collection[str]) -> tuple[ByGroup, ByGroup]:
        """As `of`, by the gradients of single samples by some parameters."""
        size = split.size(sample.inputs)
        _, dims, _ = split.parts(sample.inputs, sample.target)
        held = sum(self.parameters[name].numel() * _itemsize(self.parameters[name]) for name in names)
        chunk = max(1, min(size, _CHUNK_BYTES // max(held, 1)))
        loss_of, batch = self._loss(sample, split)
        by = {name: self.parameters[name] for name in names}

        def by_vmap(at: int) -> tuple[ByGroup, ByGroup]:
            self.objective.renew()
            part = {
                place: leaf.narrow(dims[place], at, min(chunk, size - at)) for place, leaf in batch.items()
            }

            def reduced(items: Mapping[int, Tensor]) -> tuple[ByGroup, ByGroup]:
                return self._reduced(times(self.parameters, grad(loss_of)(by, items)))

            return vmap(reduced, in_dims=(dims,))(part)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # an operator that vmap runs in a slow loop
                found = list(map(by_vmap, range(0, size, chunk)))
        except RequestError:
            raise
        except Exception:  # noqa: BLE001 - whatever vmap cannot transform is done sample by sample
            alone = (self._reduced(self._alone(sample, split, at, names)) for at in range(size))
            found = [(_rows(sums), _rows(squares)) for sums, squares in alone]
        return _stacked([sums for sums, _ in found]), _stacked([squares for _, squares in found])

    def _alone(self, sample: Sample, split: Split, at: int, names: Collection[str]) -> dict[str, Tensor]:
        """Weight times gradient of one sample, by autograd."""
        loss_of, batch = self._loss(sample, split)
        _, dims, _ = split.parts(sample.inputs, sample.target)
        leaves = {name: self.parameters[name].detach().requires_grad_() for name in names}
        self.objective.renew()
        one = {place: leaf.select(dims[place], at) for place, leaf in batch.items()}
        return times(self.parameters, gradients_of(loss_of(leaves, one), leaves))

    def _loss(self, sample: Sample, split: Split) -> Any:
        """From parameters and one sample's tensors to its loss; and those tensors for all samples."""
        leaves, dims, spec = split.parts(sample.inputs, sample.target)

        def loss_of(parameters: Mapping[str, Tensor], items: Mapping[int, Tensor]) -> Tensor:
            whole = [items[at].unsqueeze(dims[at]) if at in items else leaf for at, leaf in enumerate(leaves)]
            inputs, target = pytree.tree_unflatten(whole, spec)
            output = self.objective.run({**self.parameters, **parameters}, inputs, target)
            return self.objective.loss(output, target, sample.number)

        return loss_of, {at: leaves[at] for at in dims}

    def _reduced(self, entries: Mapping[str, Tensor]) -> tuple[ByGroup, ByGroup]:
        """What the entries of a sample sum up to, and their squares."""
        gates = self.gates.within(entries)
        squares = {name: entry.square() for name, entry in entries.items()} if self.with_squares else {}
        return gates.sums(entries), gates.sums(squares) if squares else {}


def _itemsize(tensor: Tensor) -> int:
    return max(4, tensor.element_size())


def _rows(found: ByGroup) -> ByGroup:
    return {name: value[None] for name, value in found.items()}


def _stacked(parts: Sequence[ByGroup]) -> ByGroup:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Collection[ByGroup]) -> ByGroup:
    """Add up what several parameters say; of squares, which are sums over samples, first the rows."""
    total: ByGroup = {}
    for part in parts:
        for name, value in part.items():
            if name in total and len(value) != len(total[name]):
                value, total[name] = value.sum(0, keepdim=True), total[name].sum(0, keepdim=True)
            total[name] = total[name] + value if name in total else value
    return total


def gradients_of(loss: Tensor, leaves: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Differentiate a loss; zeros where it depends on nothing.

    Raises:
        RequestError: It depends on no parameter at all.
    """
    if loss.grad_fn is None:
        raise RequestError(
            "the loss does not depend on the parameters through differentiable operators",
            do="pass a loss that does, or choose a criterion without gradients",
        )
    found = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True, **options
    )
    return dict(zip(leaves, found, strict=True))


def times(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each entry says when its gate closes: weight times gradient."""
    return {
        name: product(_wide(found.detach()), _wide(parameters[name])) for name, found in gradients.items()
    }


def product(gradient: Tensor, step: Tensor) -> Tensor:
    """What a step of each entry changes; PyTorch's gradient by a complex number is a conjugate."""
    return (gradient.conj() * step).real if gradient.is_complex() else gradient * step


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: squares of small products vanish in float16."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor

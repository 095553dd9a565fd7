"""Gradients: passes over the data that differentiate the loss by the gates of channels.

The parameters are handed to a copy of the model as detached leaves, so the user's model gets no `.grad`,
keeps its `requires_grad` and its training flags, and frozen parameters count, too. Gradients of single
samples come from `torch.func.vmap`; a model that it cannot transform is differentiated sample by sample.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from secateur.capture.batches import Sample, Samples, naming_batch
from secateur.capture.inputs import as_call, map_inputs
from secateur.capture.record import shadow
from secateur.errors import CaptureError, RequestError
from secateur.score.gates import Gates
from secateur.score.loss import Loss, default_loss

_CHUNK_BYTES = 1 << 28
"""What the gradients of the samples that are differentiated at once may take."""

ByGroup = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SampleSums:
    """What gradients of single samples say of each group, as means over the samples.

    Attributes:
        square: (dL/dm_c)^2, the square of the whole sum over a channel's entries.
        diagonal: Sum over a channel's entries of (w_p dL/dw_p)^2.
        gram: dL/dm_c dL/dm_d for all pairs of channels; empty if it was not asked for.
    """

    square: ByGroup
    diagonal: ByGroup
    gram: ByGroup = field(default_factory=dict)


class Differentiator:
    """A model whose loss is differentiated.

    Args:
        model: Any module with values; not changed.
        gates: By what to differentiate.
        loss: From output and target to the mean loss of the batch; None for `default_loss`.
    """

    def __init__(self, model: nn.Module, gates: Gates, loss: Loss | None) -> None:
        self.gates = gates
        self.loss = loss or default_loss
        with _differentiable():
            self.model = shadow(model).eval()
            self.parameters = {
                name: parameter.detach()
                for name, parameter in self.model.named_parameters()
                if parameter.is_floating_point()
            }

    def first_order(self, data: Samples) -> ByGroup:
        """dL/dm_c, the mean over all samples; signed: the loss falls when a gate with a positive one closes.

        Raises:
            CaptureError: The model or the loss does not run on a batch, or gives NaN or infinity.
        """
        total: dict[str, Tensor] = {}
        count = 0
        for sample in _alike(data):
            with naming_batch(sample.number), _differentiable():
                size = _size(sample)
                leaves = self._leaves()
                gradients = _gradients(self._loss(leaves, sample.inputs, sample.target), leaves)
                found = self.gates.sums(_times(self.parameters, gradients))
            _add(total, {name: sums.double() * size for name, sums in found.items()}, sample)
            count += size
        return {name: value / count for name, value in total.items()}

    def per_sample(self, data: Samples, *, with_gram: bool = False) -> SampleSums:
        """Differentiate the loss of every single sample.

        Args:
            data: The batches.
            with_gram: Also take products of all pairs of channels in a group.

        Raises:
            CaptureError: As for `first_order`.
        """
        square: ByGroup = {}
        diagonal: ByGroup = {}
        gram: ByGroup = {}
        count = 0
        for sample in _alike(data):
            with naming_batch(sample.number), _differentiable():
                for sums, squares in self._of_samples(sample):
                    sums = {name: found.double() for name, found in sums.items()}
                    _add(square, {name: found.square().sum(0) for name, found in sums.items()}, sample)
                    _add(diagonal, {name: found.double().sum(0) for name, found in squares.items()}, sample)
                    if with_gram:
                        _add(gram, {name: found.T @ found for name, found in sums.items()}, sample)
            count += _size(sample)
        each = ({name: value / count for name, value in found.items()} for found in (square, diagonal, gram))
        return SampleSums(*each)

    def curvature(self, data: Samples, probes: int, seed: int) -> ByGroup:
        """d^2L/dm_c^2 along each channel's weights, w_c^T H w_c, by Hutchinson's estimator.

        For random signs z of all gates, z_c w_c^T H (z w) has the expectation w_c^T H w_c. The same probes
        are used for all batches. Where there are no more gates than probes, each is probed by itself: exact.

        Raises:
            CaptureError: As for `first_order`, or an operator has no second derivative.
        """
        total: ByGroup = {}
        count = 0
        for sample in _alike(data):
            with naming_batch(sample.number), _differentiable():
                size = _size(sample)
                leaves = self._leaves()
                loss = self._loss(leaves, sample.inputs, sample.target)
                gradients = _gradients(loss, leaves, create_graph=True)
                for gates, weight in self._probes(probes, seed):
                    found = self._along(gates, gradients, leaves)
                    scale = {name: gates[name].double() * (weight * size) for name in found}
                    part = {name: found[name].double() * scale[name] for name in found}
                    _add(total, part, sample)
            count += size
        return {name: value / count for name, value in total.items()}

    def _along(
        self, gates: ByGroup, gradients: Mapping[str, Tensor], leaves: Mapping[str, Tensor]
    ) -> ByGroup:
        """The change of each gate's derivative when gates move."""
        moved = self.gates.spread(gates, self.parameters)
        steps = {name: self.parameters[name] * step for name, step in moved.items()}
        parts = [(gradients[name] * step).sum() for name, step in steps.items() if gradients[name].grad_fn]
        curved = _gradients(torch.stack(parts).sum(), leaves, retain_graph=True) if parts else {}
        zeros = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        return self.gates.sums(_times(self.parameters, curved or zeros))

    def _probes(self, count: int, seed: int) -> Iterator[tuple[ByGroup, float]]:
        sizes = {name: size for name, size in self.gates.sizes.items() if self.gates.slices[name]}
        every = sum(sizes.values())
        device = next(iter(self.parameters.values())).device
        if every <= count:
            signs, weight = torch.eye(every, dtype=torch.float64), 1.0
        else:
            generator = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (count, every), generator=generator).double() * 2 - 1
            weight = 1.0 / count
        for row in signs.to(device):
            yield dict(zip(sizes, row.split(list(sizes.values())), strict=True)), weight

    def _leaves(self) -> dict[str, Tensor]:
        return {name: value.detach().requires_grad_() for name, value in self.parameters.items()}

    def _loss(self, parameters: Mapping[str, Tensor], inputs: Any, target: Any) -> Tensor:
        args, kwargs = as_call(inputs)
        output = functional_call(self.model, dict(parameters), args, kwargs)
        loss = self.loss(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise RequestError(f"the loss is {got}, not one number", do="return the mean over the batch")
        return loss.reshape(())

    def _of_samples(self, sample: Sample) -> Iterator[tuple[ByGroup, ByGroup]]:
        """For some samples at a time: the gates' derivatives, and the sums of squares; a row for each."""
        leaves, spec = pytree.tree_flatten((sample.inputs, sample.target))
        size = _size(sample)
        is_split = [_is_split(leaf, size) for leaf in leaves]
        split = [leaf for leaf, has in zip(leaves, is_split, strict=True) if has]

        def loss_of(parameters: Mapping[str, Tensor], items: Sequence[Tensor]) -> Tensor:
            rest = iter(items)
            whole = [
                next(rest).unsqueeze(0) if has else leaf for leaf, has in zip(leaves, is_split, strict=True)
            ]
            return self._loss(parameters, *pytree.tree_unflatten(whole, spec))

        def reduce(gradients: Mapping[str, Tensor]) -> tuple[ByGroup, ByGroup]:
            entries = _times(self.parameters, gradients)
            squares = {name: entry.square() for name, entry in entries.items()}
            return self.gates.sums(entries), self.gates.sums(squares)

        def by_vmap(items: Sequence[Tensor]) -> tuple[ByGroup, ByGroup]:
            return reduce(grad(loss_of)(self.parameters, items))

        held = sum(value.numel() * value.element_size() for value in self.parameters.values())
        chunk = max(1, min(size, _CHUNK_BYTES // max(held, 1)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # an operator that vmap runs in a slow loop
                found = vmap(by_vmap, chunk_size=chunk)(split)
        except RequestError:
            raise
        except Exception:  # noqa: BLE001 - whatever vmap cannot transform is done sample by sample
            found = None
        if found is not None:
            yield found
            return
        for at in range(size):
            parameters = self._leaves()
            gradients = _gradients(loss_of(parameters, [leaf[at] for leaf in split]), parameters)
            yield pytree.tree_map(lambda found: found[None], reduce(gradients))


@contextmanager
def _differentiable() -> Iterator[None]:
    """Gradients on, whatever the caller switched off; attention by operators that all have derivatives."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(0)  # for models that draw in eval mode
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor]:
    if loss.grad_fn is None:
        raise RequestError(
            "the loss does not depend on the parameters through differentiable operators",
            do="pass a loss that does, or choose a criterion without gradients",
        )
    found = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True, **options
    )
    return dict(zip(leaves, found, strict=True))


def _times(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter * gradients[name].detach() for name, parameter in parameters.items()}


def _add(total: ByGroup, part: Mapping[str, Tensor], sample: Sample) -> None:
    for name, value in part.items():
        value = value.detach().cpu()
        if not bool(torch.isfinite(value).all()):
            raise CaptureError(
                f"the gradients of group {name} are NaN or infinite on batch {sample.number} of the data",
                do="mend the weights of that layer, the data or the loss",
            )
        total[name] = total[name] + value if name in total else value


def _alike(data: Samples) -> Iterator[Sample]:
    """The batches, copied out of inference mode, all with labels or all without."""
    labelled: bool | None = None
    for sample in data:
        has = sample.target is not None
        if labelled is not None and has != labelled:
            raise RequestError(
                f"batch {sample.number} of the data has {'labels' if has else 'no labels'}, "
                f"those before it have {'none' if has else 'some'}",
                do="give labels with all batches or with none",
            )
        labelled = has
        with torch.inference_mode(False):
            inputs, target = map_inputs((sample.inputs, sample.target), torch.clone)
        yield Sample(sample.number, inputs, target)


def _size(sample: Sample) -> int:
    """How many samples a batch holds: the first dim of its first tensor."""
    first = next(leaf for leaf in pytree.tree_leaves(sample.inputs) if isinstance(leaf, Tensor))
    return int(first.shape[0]) if first.ndim else 1


def _is_split(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size

"""Gradients: passes over the data that differentiate the loss by the gates of channels.

The parameters are handed to a copy of the model as detached leaves, so the user's model gets no `.grad`,
keeps its `requires_grad` and its training flags, and frozen parameters count, too. What single samples say
comes from activations and their gradients in one pass over the batch (`score/taps.py`), held against one
sample that is differentiated alone. Of parameters that this does not reach the gradients of single samples
come from `torch.func.vmap`; a model that it cannot transform is differentiated sample by sample.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.capture.batches import Sample, Samples, naming_batch, nan_in
from secateur.capture.inputs import map_inputs
from secateur.capture.layouts import in_layout, unsafe_in_channels_last
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.shadow import shadow
from secateur.capture.switches import as_written
from secateur.errors import CaptureError, RequestError, SecateurError
from secateur.score.gates import Gates
from secateur.score.loss import Loss, Objective
from secateur.score.singles import ByGroup, Singles, gradients_of, product, times
from secateur.score.split import Split, find_split


@dataclass(frozen=True, eq=False)
class SampleSums:
    """What gradients of single samples say of each group, as means over the samples.

    Attributes:
        square: (dL/dm_c)^2, the square of the whole sum over a channel's entries.
        diagonal: Sum over a channel's entries of (w_p dL/dw_p)^2; empty if it was not asked for.
        gram: dL/dm_c dL/dm_d for all pairs of channels; empty if it was not asked for.
    """

    square: ByGroup
    diagonal: ByGroup = field(default_factory=dict)
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
        with _differentiable(model):
            held = shadow(model).eval()
            self.objective = Objective(held, loss)
            self.needs_contiguous = bool(unsafe_in_channels_last(model))
            self.parameters = {
                name: self._laid_out(parameter.detach())
                for name, parameter in held.named_parameters()
                if parameter.is_floating_point() or parameter.is_complex()
            }

    def first_order(self, data: Samples) -> ByGroup:
        """dL/dm_c, the mean over all samples; signed: the loss falls when a gate with a positive one closes.

        Raises:
            CaptureError: The model or the loss does not run on a batch, or gives NaN or infinity.
        """
        total: dict[str, Tensor] = {}
        count = 0
        for sample, gradients, weight in self.by_batch(data):
            found = self.gates.sums(times(self.parameters, gradients))
            _add(total, {name: sums.double() * weight for name, sums in found.items()}, sample)
            count += weight
        return {name: value / count for name, value in total.items()}

    def by_batch(self, data: Samples) -> Iterator[tuple[Sample, dict[str, Tensor], int]]:
        """Differentiate the loss of one batch after the other by every parameter.

        Yields:
            The batch, the gradients by name, and what the batch counts beside others.

        Raises:
            CaptureError: The model or the loss does not run on a batch.
        """
        for sample in self._samples(data):
            with naming_batch(sample.number), _differentiable(self.objective.model), self._telling(sample):
                leaves = self._leaves()
                loss, weight = self._loss(leaves, sample)
                found = gradients_of(loss, leaves)
            # On a parameter that forward replaces before it reads it nothing depends.
            gradients = {
                name: found[name] if found[name].shape == value.shape else torch.zeros_like(value)
                for name, value in self.parameters.items()
            }
            yield sample, gradients, weight

    def per_sample(
        self, data: Samples, *, with_diagonal: bool = False, with_gram: bool = False
    ) -> SampleSums:
        """Differentiate the loss of every single sample.

        Args:
            data: The batches.
            with_diagonal: Also square every entry of a channel by itself.
            with_gram: Also take products of all pairs of channels in a group.

        Raises:
            CaptureError: As for `first_order`.
        """
        square: ByGroup = {}
        diagonal: ByGroup = {}
        gram: ByGroup = {}
        count = 0
        split: Split | None = None
        singles = Singles(self.objective, self.parameters, self.gates, with_squares=with_diagonal)
        for sample in self._samples(data):
            with naming_batch(sample.number), _differentiable(self.objective.model), self._telling(sample):
                if split is None or not split.is_known:
                    split = self._split(sample)
                sums, squares = singles.of(sample, split)
                sums = {name: found.double() for name, found in sums.items()}
                _add(square, {name: found.square().sum(0) for name, found in sums.items()}, sample)
                _add(diagonal, {name: found.double().sum(0) for name, found in squares.items()}, sample)
                if with_gram:
                    _add(gram, {name: found.T @ found for name, found in sums.items()}, sample)
            count += split.size(sample.inputs)
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
        for sample in self._samples(data):
            with naming_batch(sample.number), _differentiable(self.objective.model), self._telling(sample):
                leaves = self._leaves()
                loss, weight = self._loss(leaves, sample)
                gradients = gradients_of(loss, leaves, create_graph=True)
                for gates, share in self._probes(probes, seed):
                    found = self._along(gates, gradients, leaves)
                    scale = {name: gates[name].double() * (share * weight) for name in found}
                    part = {name: found[name].double() * scale[name] for name in found}
                    _add(total, part, sample)
            count += weight
        return {name: value / count for name, value in total.items()}

    def _along(
        self, gates: ByGroup, gradients: Mapping[str, Tensor], leaves: Mapping[str, Tensor]
    ) -> ByGroup:
        """The change of each gate's derivative when gates move."""
        moved = self.gates.spread(gates, self.parameters)
        steps = {name: self.parameters[name] * step for name, step in moved.items()}
        parts = [
            product(gradients[name], step).sum() for name, step in steps.items() if gradients[name].grad_fn
        ]
        curved = gradients_of(torch.stack(parts).sum(), leaves, retain_graph=True) if parts else {}
        zeros = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        return self.gates.sums(times(self.parameters, curved or zeros))

    def _probes(self, count: int, seed: int) -> Iterator[tuple[ByGroup, float]]:
        sizes = {name: size for name, size in self.gates.sizes.items() if self.gates.shares[name]}
        every = sum(sizes.values())
        device = next(iter(self.parameters.values())).device
        if every <= count:
            signs, weight = torch.eye(every, dtype=torch.float64, device="cpu"), 1.0
        else:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randint(0, 2, (count, every), generator=generator, device="cpu")
            signs = drawn.double() * 2 - 1
            weight = 1.0 / count
        for row in signs.to(device):
            yield dict(zip(sizes, row.split(list(sizes.values())), strict=True)), weight

    @contextmanager
    def _telling(self, sample: Sample) -> Iterator[None]:
        """Say of an error whether the model runs on the batch and only its gradients fail.

        Raises:
            CaptureError: They do.
        """
        try:
            yield
        except SecateurError:
            raise
        except Exception as error:
            if not self._runs_without_gradients(sample):
                raise
            raise CaptureError(
                f"the model runs on batch {sample.number} of the data, but no gradients can be taken: "
                f"{type(error).__name__}: {error}",
                do="choose a criterion without gradients, such as activation-mean, "
                "or let forward write into no tensor that it has computed with",
            ) from error

    def _runs_without_gradients(self, sample: Sample) -> bool:
        self.objective.renew()
        try:
            with torch.no_grad():
                self.objective.run(self.parameters, map_inputs(sample.inputs, torch.clone), None)
        except Exception:  # noqa: BLE001 - a foreign model may raise anything
            return False
        return True

    def _samples(self, data: Samples) -> Iterator[Sample]:
        """The batches, laid out as the parameters are."""
        for sample in _alike(data):
            yield replace(sample, inputs=map_inputs(sample.inputs, self._laid_out))

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return in_layout(tensor, torch.contiguous_format) if self.needs_contiguous else tensor

    def _leaves(self) -> dict[str, Tensor]:
        return {name: value.detach().requires_grad_() for name, value in self.parameters.items()}

    def _loss(self, parameters: Mapping[str, Tensor], sample: Sample) -> tuple[Tensor, int]:
        """The loss of a batch, and what it counts beside others."""
        self.objective.renew()
        output = self.objective.run(parameters, sample.inputs, sample.target)
        return self.objective.loss(output, sample.target, sample.number), self.objective.weight(
            output, sample.target
        )

    def _split(self, sample: Sample) -> Split:
        def run(inputs: Any) -> Any:
            self.objective.renew()
            return self.objective.run(self.parameters, map_inputs(inputs, torch.clone), None)

        with torch.no_grad():
            return find_split(run, sample.inputs, sample.target, sample.number)


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Gradients on, whatever the caller switched off; attention by operators that all have derivatives."""
    with ExitStack() as stack:
        stack.enter_context(outside_kept(model))
        stack.enter_context(as_written())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(OwnNumbers())  # for models that draw in eval mode
        yield


def _add(total: ByGroup, part: Mapping[str, Tensor], sample: Sample) -> None:
    for name, value in part.items():
        value = value.detach().cpu()
        if not bool(torch.isfinite(value).all()):
            raise CaptureError(
                f"the gradients of group {name} are NaN or infinite on batch {sample.number} of the data"
                f"{nan_in(sample.inputs)}",
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

"""What criteria learn from data: sums over the inputs of layers, and gradients.

The data is read as `secateur.prune` reads it (`capture/batches.py`), a layer's inputs are seen as the rows
that its flattened weight is multiplied with (`coupling/patches.py`), and the loss is differentiated by
`score/gradients.py`. A copy of the model runs, in eval mode; the model itself keeps its buffers and modes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.capture.batches import RawSamples, Samples, naming_batch
from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call, cloned
from secateur.capture.operators import operator_name, schema_arguments
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.switches import recording_context
from secateur.coupling.layers import is_transposed
from secateur.coupling.patches import Patches
from secateur.coupling.rule import rule_of
from secateur.errors import CaptureError, RequestError
from secateur.graph.trait import Trait
from secateur.mask.criterion import criteria
from secateur.mask.targets import Selector, Target, choose
from secateur.score.gates import Gates
from secateur.score.gradients import Differentiator

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""A user's own way to run a model on a batch, and its loss where gradients are asked for."""

_ROWS = 1 << 16
"""Rows of a layer's inputs that are unfolded at once."""


class MaskEvidence:
    """A model and the data that it is run on.

    Args:
        model: Not changed.
        data: Batches, as for `secateur.prune`; of any kind if the user's own function reads them.
        loss: That function; None to run the model on its inputs.
        example_inputs: What the model takes; None for what the first batch and `forward` say.

    Raises:
        RequestError: The data is one batch rather than a list of them, or the first one makes no sense.
    """

    def __init__(
        self, model: nn.Module, data: Iterable[Any], loss: Loss | None = None, example_inputs: Any = None
    ) -> None:
        self.model, self.loss = model, loss
        self.samples = Samples(data, model, example_inputs) if loss is None else RawSamples(data)
        next(iter(self.samples))  # nonsense is better refused before anything is masked

    def sum_inputs(
        self,
        targets: Sequence[Target],
        make: Callable[[Float[Tensor, "groups samples columns"]], Tensor],
    ) -> dict[str, Tensor]:
        """Sum something over the inputs of layers.

        Args:
            targets: Their weights.
            make: What is summed, from some rows of inputs in float64.

        Raises:
            RequestError: A layer was never run, or is none whose inputs are understood.
            CaptureError: The model does not run on a batch, or a layer gets NaN or infinity.
        """
        found: dict[str, Tensor] = {}

        def note(target: Target, named: Mapping[str, Any]) -> None:
            patches = Patches(named, named["input"])
            for rows in torch.arange(patches.rows).split(_ROWS):
                value = make(patches.take(rows, 0, patches.channels))
                found[target.name] = found[target.name] + value if target.name in found else value
                if not bool(value.isfinite().all()):
                    raise CaptureError(
                        f"the inputs of {target.name} hold NaN or infinity",
                        do="mend the weights of the layers before it, or the data",
                    )

        held = copy_module(self.model, {id(parameter): parameter for parameter in self.model.parameters()})
        run = (held if self.loss is None else _Run(held, self.loss)).eval()
        for sample in self.samples:
            args, kwargs = as_call(cloned(sample.inputs))
            listener = _Listener(targets, note)
            with naming_batch(sample.number), outside_kept(held), recording_context(), OwnNumbers(), listener:
                run(*args, **kwargs)
        unseen = [target.name for target in targets if target.name not in found]
        if unseen:
            raise RequestError(
                f"the data never reaches {unseen[0]}",
                [f"{len(unseen)} of {len(targets)} chosen layers were not run"],
                "pass batches that run them, or leave them out with select=",
            )
        return found

    def input_norms(self, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The L2 norm of each input over all samples, in the shape of the weight."""
        sums = self.sum_inputs(targets, lambda rows: rows.square().sum(1))
        norms = {}
        for target in targets:
            weight, found = target.orig, sums[target.name].sqrt()
            rows = found.repeat_interleave(weight.shape[0] // len(found), 0)
            norms[target.name] = rows.view(weight.shape).to(weight)
        return norms

    def sum_gradients(self, name: str, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Sum a criterion's scores over batches while the weights stay.

        Raises:
            RequestError: There is neither a loss nor labels.
            CaptureError: The model does not run on a batch, or gives no gradients.
        """
        run, loss = self.model, None
        if self.loss is not None:
            run, loss = _Run(self.model, self.loss), lambda output, _: output
        names = {id(parameter): name for name, parameter in run.named_parameters()}
        gathering = Gathering(name, self.model, [target.places[0] for target in targets])
        for sample, gradients, _ in Differentiator(run, Gates({}, {}), loss).by_batch(self.samples):
            if loss is None and sample.target is None:
                raise RequestError(
                    f"'{name}' needs a loss, batch {sample.number} of the data has no labels",
                    do="pass loss=, from model and batch, or batches with labels",
                )
            for target in gathering.targets:
                gathering.add(target, gradients[names[id(target.orig)]])
        return {target.name: gathering.scores[target.name] for target in targets}


class _Run(nn.Module):
    """A model inside of the user's function that runs it on a batch."""

    def __init__(self, model: nn.Module, function: Loss) -> None:
        super().__init__()
        self.model = model
        self.function = lambda *given: function(
            *given
        )  # copies of the module go on sharing all that it holds

    def forward(self, number: Tensor, batch: Any) -> Any:
        """Run it; the batch's number is of no use."""
        return self.function(self.model, batch)


class _Listener(TorchDispatchMode):
    """Notes calls of layers whose weight is watched, or computed from such a one entry by entry."""

    def __init__(self, targets: Sequence[Target], note: Callable[[Target, Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.note = note
        self.known = {id(target.orig): target for target in targets}
        self.held: list[Tensor] = []  # a tensor that is gone would give its id to another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given = (self.known.get(id(leaf)) for leaf in (*args, *kwargs.values()))
        target = next((one for one in given if one is not None), None)
        rule = None if target is None else rule_of(operator_name(func))
        if target is None or rule is None:
            return output
        if Trait.LAYER in rule.traits:
            named = dict(schema_arguments(func, args, kwargs))
            if self.known.get(id(named.get("weight"))) is not target or is_transposed(named):
                raise RequestError(
                    f"the inputs of {target.name} are not understood, {operator_name(func)} reads it",
                    ["understood are linear layers and convolutions with the outputs in dim 0 of the weight"],
                    "choose other layers with select=, or a criterion that needs no inputs",
                )
            self.note(target, named)
        elif Trait.POINTWISE in rule.traits and output.shape == target.orig.shape:
            self.known[id(output)] = target
            self.held.append(output)
        return output


class Gathering:
    """Sums a criterion over the steps of a training run.

    Args:
        criterion: "movement" or "taylor".
        model: The model that is trained.
        select: Which parameters; as for `prune`.
        parameters: Names of parameters in their modules.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> gathering = Gathering("taylor", net)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> gathering.step()
        >>> torch.equal(gathering.scores["weight"], net.weight.detach() ** 2)
        True
    """

    def __init__(
        self,
        criterion: str,
        model: nn.Module,
        select: Selector = None,
        parameters: Sequence[str] = ("weight",),
    ) -> None:
        found = criteria[criterion]
        if found.of != "gradients":
            raise RequestError(f"'{criterion}' needs no gradients", do="pass 'movement' or 'taylor'")
        self._formula = found.formula
        self.targets = choose(model, select, parameters)
        self.scores = {target.name: torch.zeros_like(target.orig.detach()) for target in self.targets}

    def step(self) -> None:
        """Add what the present gradients say; call it after `backward` and before `optimizer.step`."""
        for target in self.targets:
            if target.orig.grad is not None:
                self.add(target, target.orig.grad)

    def add(self, target: Target, gradient: Tensor) -> None:
        """Add what one gradient says of one tensor."""
        self.scores[target.name] += self._formula(target.value, gradient.detach())

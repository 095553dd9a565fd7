"""What criteria learn from data: norms and second moments of a layer's inputs, and gradients.

Inputs are seen as a matrix product sees them: one row for each sample (token, pixel), one column for each
column of the flattened weight. A convolution's are its patches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.capture.layouts import safe_backward
from secateur.errors import RequestError
from secateur.mask.criterion import criteria
from secateur.mask.targets import Selector, Target, choose

Loss = Callable[[nn.Module, Any], Tensor]


def run_model(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch: a tensor, a dict of keyword inputs, or a tuple that begins with the input."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def columns(module: nn.Module, inputs: Tensor) -> Float[Tensor, "groups samples columns"]:
    """See a layer's input as the matrix that its flattened weight is multiplied with.

    Raises:
        RequestError: The layer is neither linear nor a one- or two-dimensional convolution.

    Example:
        >>> columns(nn.Conv2d(4, 2, 3, groups=2), torch.zeros(5, 4, 6, 6)).shape
        torch.Size([2, 80, 18])
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    if isinstance(module, nn.Conv1d):
        parts = functional.pad(inputs, _padding(module), mode=_mode(module)).unsqueeze(2)
        window = (1, *module.kernel_size), (1, *module.dilation), (1, *module.stride)
    elif isinstance(module, nn.Conv2d):
        parts = functional.pad(inputs, _padding(module), mode=_mode(module))
        window = module.kernel_size, module.dilation, module.stride
    else:
        raise RequestError(
            f"the inputs of a {type(module).__name__} are not understood",
            ["understood are Linear, Conv1d and Conv2d"],
            "choose other layers with select=, or a criterion that needs no inputs",
        )
    patches = functional.unfold(parts, window[0], window[1], 0, window[2])  # (n, columns, places)
    grouped = patches.unflatten(1, (module.groups, -1))
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def _padding(module: Any) -> list[int]:
    return list(module._reversed_padding_repeated_twice)


def _mode(module: Any) -> str:
    return "constant" if module.padding_mode == "zeros" else module.padding_mode


def gather_inputs(
    model: nn.Module,
    targets: Sequence[Target],
    data: Iterable[Any],
    make: Callable[[Float[Tensor, "groups samples columns"]], Tensor],
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """Sum something over the inputs of layers, in eval mode.

    Args:
        model: Run on every batch; its modes are restored.
        targets: The weights whose layers are listened to.
        data: Batches.
        make: What is summed, from the inputs of one call in float64.
        loss: How a batch is run; None for `run_model`.

    Raises:
        RequestError: A layer was never run, or its inputs are not understood.
    """
    found: dict[str, Tensor] = {}

    def listen(target: Target) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            value = make(columns(module, inputs[0].detach()).double())
            found[target.name] = found[target.name] + value if target.name in found else value

        return note

    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack, torch.no_grad():
        for module, mode in modes.items():
            stack.callback(setattr, module, "training", mode)
        model.eval()
        for target in targets:
            for module, _ in target.places:
                stack.callback(module.register_forward_pre_hook(listen(target)).remove)
        for batch in data:
            (loss or run_model)(model, batch)
    unseen = [target.name for target in targets if target.name not in found]
    if unseen:
        raise RequestError(
            f"the data never reaches {unseen[0]}",
            [f"{len(unseen)} of {len(targets)} chosen layers were not run"],
            "pass batches that run them, or leave them out with select=",
        )
    return found


def input_norms(
    model: nn.Module, targets: Sequence[Target], data: Iterable[Any], loss: Loss | None = None
) -> dict[str, Tensor]:
    """The L2 norm of each input over all samples, in a shape that broadcasts with the weight."""
    sums = gather_inputs(model, targets, data, lambda matrix: (matrix**2).sum(1), loss)
    norms = {}
    for target in targets:
        weight, found = target.orig, sums[target.name].sqrt()
        rows = found.repeat_interleave(weight.shape[0] // len(found), 0)
        norms[target.name] = rows.view(weight.shape).to(weight)
    return norms


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
        gather = criteria[criterion].gather
        if gather is None:
            raise RequestError(f"'{criterion}' needs no gradients", do="pass 'movement' or 'taylor'")
        self._gather = gather
        self.targets = choose(model, select, parameters)
        self.scores = {target.name: torch.zeros_like(target.orig.detach()) for target in self.targets}

    def step(self) -> None:
        """Add what the present gradients say; call it after `backward` and before `optimizer.step`."""
        for target in self.targets:
            if target.orig.grad is not None:
                self.add(target, target.orig.grad)

    def add(self, target: Target, gradient: Tensor) -> None:
        """Add what one gradient says of one tensor."""
        self.scores[target.name] += self._gather(target.value, gradient.detach())


def gather_gradients(
    criterion: str, model: nn.Module, targets: Sequence[Target], data: Iterable[Any], loss: Loss
) -> dict[str, Tensor]:
    """Sum a criterion over batches while the weights stay; `.grad` of the parameters is not touched."""
    gathering = Gathering(criterion, model, [place for target in targets for place in target.places])
    by_name = {target.name: target for target in targets}
    for batch in data:
        origs = [target.orig for target in gathering.targets]
        with safe_backward(model):
            gradients = torch.autograd.grad(loss(model, batch), origs, allow_unused=True)
        for target, gradient in zip(gathering.targets, gradients, strict=True):
            if gradient is not None:
                gathering.add(target, gradient)
    return {name: gathering.scores[name] for name in by_name}

"""Losses: what gradient criteria differentiate.

With labels: the cross-entropy for class indices, the mean squared error for real targets of the output's
shape. Without labels: half the mean square of the outputs, so that a channel counts as far as it moves what
the model says. Or whatever the user passes, `loss(output, target)`, a mean over the samples of a batch.

A model whose `forward` takes `labels` and returns a `loss`, as those of Hugging Face do, is asked for its
own: a causal language model predicts the next token, which only it knows.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call, output_tensors
from secateur.capture.shadow import shadow
from secateur.errors import RequestError, SecateurError

Loss: TypeAlias = Callable[[Any, Any], Tensor]

_IGNORED = -100
"""The class index that PyTorch's cross-entropy leaves out."""


def default_loss(output: Any, target: Any) -> Tensor:
    """The loss where the user names none, of the first tensor that the model returns.

    Args:
        output: What the model returned.
        target: Class indices, real values, or None for no labels.

    Raises:
        RequestError: The target does not fit the output.

    Example:
        >>> import torch
        >>> float(default_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])))
        0.6931471824645996
        >>> float(default_loss(torch.tensor([[3.0, 1.0]]), None))
        2.5
    """
    found = [held for held in output_tensors(output) if held.is_floating_point() or held.is_complex()]
    if not found:
        raise RequestError("the model returns no real number to take a loss of", do="pass loss=")
    first = found[0]
    if target is None:
        return 0.5 * (first.conj() * first).real.mean()
    if isinstance(target, Tensor) and first.is_complex() and target.shape == first.shape:
        return (first - target).abs().square().mean()
    if isinstance(target, Tensor) and target.is_floating_point() and target.shape == first.shape:
        return F.mse_loss(first, target)
    if isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex():
        in_rows = target.shape == first.shape[:-1]
        in_maps = first.ndim > 2 and target.shape == (first.shape[0], *first.shape[2:])
        if in_rows and in_maps:
            raise RequestError(
                f"outputs of shape {list(first.shape)} may hold classes in their second or in their last dim",
                do="pass criterion=secateur.criterion(..., loss=callable(output, target))",
            )
        if first.shape[-1 if in_rows else 1] == 1 and (in_rows or in_maps):
            raise RequestError(
                f"outputs of shape {list(first.shape)} hold one class, whose cross-entropy is always 0",
                do="pass real labels of the outputs' shape, or "
                "criterion=secateur.criterion(..., loss=callable(output, target))",
            )
        if in_rows:
            return F.cross_entropy(first.flatten(0, -2), target.flatten().long())
        if in_maps:
            return F.cross_entropy(first, target.long())
    shape = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
    raise RequestError(
        f"labels of shape {shape} do not fit outputs of shape {list(first.shape)}",
        ["fitting: class indices, one for each row of outputs, or real values of the outputs' shape"],
        "pass criterion=secateur.criterion(..., loss=callable(output, target)), or batches without labels",
    )


class Objective:
    """The loss of a model as a function of its parameters.

    Args:
        model: In eval mode; not changed.
        loss: From output and target to the mean loss of the batch; None for the model's own where it is given
            labels, and for `default_loss` elsewhere.
    """

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        self.model = model
        self._running = model
        self._loss = loss
        self._takes_labels = loss is None and "labels" in inspect.signature(model.forward).parameters

    def renew(self) -> None:
        """Go on with a copy of the model in which no run has left anything, a table by size, say."""
        self._running = shadow(self.model)

    def run(self, parameters: Mapping[str, Tensor], inputs: Any, target: Any) -> Any:
        """The model's output, with its own loss in it if it has one; `renew` comes first."""
        args, kwargs = as_call(inputs)
        if self._takes_labels and target is not None:
            output = functional_call(self._running, dict(parameters), args, {"labels": target, **kwargs})
            if _own_loss(output) is not None:
                return output
            self._takes_labels = False
        return functional_call(self._running, dict(parameters), args, kwargs)

    def loss(self, output: Any, target: Any, number: int = 0) -> Tensor:
        """The mean loss of a batch.

        Args:
            output: What the model returned.
            target: What should come out.
            number: The batch's place in the data, for messages.

        Raises:
            RequestError: It cannot be taken, is not one number, or the target does not fit the output.
        """
        own = _own_loss(output) if self._takes_labels and target is not None else None
        try:
            loss = own if own is not None else (self._loss or default_loss)(output, target)
        except SecateurError:
            raise
        except Exception as error:
            raise _refused(error, self._loss, output, target, number) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise RequestError(f"the loss is {got}, not one number", do="return the mean over the batch")
        return loss.reshape(())

    def total(self, output: Any, target: Any, samples: int, number: int = 0) -> Tensor | None:
        """The sum over the samples of the loss that each has alone.

        Args:
            output: What the model returned for all of them; each has one row of it.
            target: What should come out; each has one row of it.
            samples: How many there are.
            number: As for `loss`.

        Returns:
            The sum; None where only the model itself knows what it is.
        """
        if self._takes_labels and target is not None:
            own, is_whole = _own_loss(output), isinstance(target, Tensor) and bool((target != _IGNORED).all())
            return own.reshape(()) * samples if own is not None and is_whole else None
        if self._loss is None:
            output = next(held for held in output_tensors(output) if held.is_floating_point())
        leaves, spec = pytree.tree_flatten((output, target))
        parts = [
            leaf.split(1)
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == samples
            else [leaf] * samples
            for leaf in leaves
        ]
        losses = []
        for row in zip(*parts, strict=True):
            one, wanted = pytree.tree_unflatten(row, spec)
            losses.append(self.loss(one, wanted, number))
        return torch.stack(losses).sum()

    def weight(self, output: Any, target: Any) -> int:
        """What the loss of a batch counts beside those of others: labels that count, else samples."""
        if isinstance(target, Tensor) and target.ndim:
            is_index = not target.is_floating_point() and self._loss is None
            return int((target != _IGNORED).sum()) if is_index else len(target)
        first = next(iter(output_tensors(output)), None)
        return len(first) if first is not None and first.ndim else 1


def _refused(error: Exception, loss: Loss | None, output: Any, target: Any, number: int) -> RequestError:
    """The model ran, its loss does not: say what the loss was given."""
    first = next(iter(output_tensors(output)), None)
    given = [] if first is None else [f"the model returned {list(first.shape)}"]
    do = "mend the loss, or the labels"
    if isinstance(target, Tensor) and target.numel():
        given.append(f"the labels are {list(target.shape)}, from {target.min()} to {target.max()}")
    if loss is None:
        do = (
            "number classes from 0, or pass criterion=secateur.criterion(..., loss=callable(output, target)) "
            "with an ignore_index for what is no class"
        )
    what = f"the loss cannot be taken of batch {number} of the data: {type(error).__name__}: {error}"
    return RequestError(what, given, do)


def _own_loss(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None

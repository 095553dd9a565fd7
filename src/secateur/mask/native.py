"""What `torch.nn.utils.prune` has is computed by it, so that masks and random draws are the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import prune as torch_prune

from secateur.errors import RequestError
from secateur.mask.amount import Amount
from secateur.mask.hook import Target

Method: TypeAlias = torch_prune.BasePruningMethod

_UNSTRUCTURED = {
    "l1": torch_prune.L1Unstructured,
    "l2": torch_prune.L1Unstructured,
    "ln": torch_prune.L1Unstructured,
    "random": torch_prune.RandomUnstructured,
}


def method_class(
    method: Any, scope: str, structure: str, dim: int, n: float | str
) -> tuple[type[Method], dict[str, Any]] | None:
    """The class that does what is asked, and its arguments without the amount; None if there is none.

    Example:
        >>> method_class("l2", "local", "structured", dim=0, n=2)
        (<class 'torch.nn.utils.prune.LnStructured'>, {'n': 2, 'dim': 0})
        >>> method_class("l1", "lamp", "unstructured", dim=0, n=2)
    """
    if isinstance(method, type):
        return method, {}
    is_local = scope in ("local", "uniform")
    if method in _UNSTRUCTURED and structure == "unstructured" and (is_local or scope == "global"):
        return _UNSTRUCTURED[method], {}
    if method in _UNSTRUCTURED and structure == "structured" and is_local:
        if method == "random":
            return torch_prune.RandomStructured, {"dim": dim}
        return torch_prune.LnStructured, {"n": {"l1": 1, "l2": 2}.get(method, n), "dim": dim}
    return None


def masks_by(
    make: Callable[..., Method],
    options: Mapping[str, Any],
    targets: Sequence[Target],
    amounts: Sequence[Amount] | None,
    scores: Mapping[str, Tensor],
    scope: str,
) -> list[tuple[Tensor, Method]]:
    """Compute the mask of every tensor, what is masked already included.

    Args:
        make: The class.
        options: Its arguments without the amount.
        targets: The tensors.
        amounts: For each tensor; None for a method of the user that takes none.
        scores: By name, what counts in place of the weights.
        scope: "global" for all tensors together, else each by itself.

    Returns:
        The mask of each, and the method that made it.

    Raises:
        RequestError: The method does not mask single entries, and is to compare those of all tensors.
    """

    def made(at: int, mask: Tensor) -> Method:
        if amounts is None:
            return make(**options)
        alive = mask != 0
        if "dim" in options:
            alive = alive.movedim(options["dim"], 0).flatten(1).any(1)
        count = amounts[at].count(alive.numel(), int(alive.sum()))
        return make(**options, amount=count if amounts[at].is_total else amounts[at].value)

    if scope != "global":
        methods = [made(at, target.mask) for at, target in enumerate(targets)]
        return [
            (_mask(method, scores[target.name], target.mask if target.is_masked else None), method)
            for method, target in zip(methods, targets, strict=True)
        ]
    mask = torch.cat([target.mask.flatten() for target in targets])
    method = made(0, mask)
    kind = getattr(method, "PRUNING_TYPE", None)
    if kind != "unstructured":
        raise RequestError(
            f"{type(method).__name__} is of type '{kind}', not 'unstructured'",
            ["of all tensors together torch.nn.utils.prune can mask entries only"],
            "pass scope='local'",
        )
    found = _mask(method, torch.cat([scores[target.name].flatten() for target in targets]), mask)
    parts = found.split([target.orig.numel() for target in targets])
    return [(part.view(target.orig.shape), method) for part, target in zip(parts, targets, strict=True)]


def _mask(method: Method, scores: Tensor, mask: Tensor | None) -> Tensor:
    """What stays; where there is a mask, their container says how the method combines with it."""
    if mask is None:
        return method.compute_mask(scores, torch.ones_like(scores))
    container = torch_prune.PruningContainer()
    container._tensor_name = method._tensor_name = ""
    container.add_pruning_method(method)
    return container.compute_mask(scores, mask)

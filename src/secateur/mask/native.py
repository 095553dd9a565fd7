"""What `torch.nn.utils.prune` has is done by it, so that masks and random draws are the same.

Only the hooks are made ours afterwards (`hook.own`), and a tied parameter gets its mask at every place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils import prune as torch_prune

from secateur.errors import RequestError
from secateur.mask.amount import Amount
from secateur.mask.hook import attach, own
from secateur.mask.targets import Target

_UNSTRUCTURED = {
    "l1": torch_prune.L1Unstructured,
    "l2": torch_prune.L1Unstructured,
    "ln": torch_prune.L1Unstructured,
    "random": torch_prune.RandomUnstructured,
}


def covers(method: Any, scope: str, structure: str) -> bool:
    """Whether `torch.nn.utils.prune` has a method for all entries or whole channels, in this scope."""
    if isinstance(method, type):
        return True
    if method == "identity":
        return True
    is_local = scope in ("local", "uniform")
    return method in _UNSTRUCTURED and (
        (structure == "unstructured" and (is_local or scope == "global"))
        or (structure == "structured" and is_local)
    )


def method_class(method: Any, structure: str, dim: int, n: Any) -> tuple[Any, dict[str, Any]]:
    """The class that does it, and its arguments without the amount."""
    if isinstance(method, type):
        return method, {}
    if structure == "unstructured":
        return _UNSTRUCTURED[method], {}
    if method == "random":
        return torch_prune.RandomStructured, {"dim": dim}
    return torch_prune.LnStructured, {"n": {"l1": 1, "l2": 2}.get(method, n), "dim": dim}


def identity(targets: Sequence[Target]) -> None:
    """Give every tensor a mask of ones, or leave the mask that it has."""
    _each(targets, lambda target, at: torch_prune.Identity.apply(target.module, target.parameter))


def custom(targets: Sequence[Target], masks: Mapping[str, Tensor]) -> None:
    """Mask by given masks; they combine with those that are there."""
    for target in targets:
        if tuple(masks[target.name].shape) != tuple(target.orig.shape):
            raise RequestError(
                f"the mask of {target.name} is {list(masks[target.name].shape)}, "
                f"the parameter {list(target.orig.shape)}",
                do="pass a mask of the parameter's shape",
            )
    _each(
        targets,
        lambda target, at: torch_prune.CustomFromMask.apply(
            target.module, target.parameter, masks[target.name].to(target.orig.device)
        ),
    )


def local(
    targets: Sequence[Target],
    kind: Any,
    amounts: Sequence[Amount] | None,
    scores: Mapping[str, Tensor] | None,
    options: Mapping[str, Any],
) -> None:
    """Apply a method to each tensor by itself.

    Args:
        targets: The tensors.
        kind: A subclass of `BasePruningMethod`.
        amounts: For each tensor; None for a method of the user that takes none.
        scores: Importance scores by name, used in place of the weights.
        options: Further arguments of the method.
    """

    def apply(target: Target, at: int) -> None:
        given = dict(options)
        if amounts is not None:
            given["amount"] = _value(amounts[at], target, kind, given.get("dim"))
        if scores is not None:
            given["importance_scores"] = scores[target.name]
        if kind is torch_prune.RandomUnstructured or kind is torch_prune.RandomStructured:
            given.pop("importance_scores", None)
        kind.apply(target.module, target.parameter, **given)

    _each(targets, apply)


def everywhere(
    targets: Sequence[Target],
    kind: Any,
    amounts: Sequence[Amount] | None,
    scores: Mapping[str, Tensor] | None,
    options: Mapping[str, Any],
) -> None:
    """Apply a method to the entries of all tensors together."""
    given = dict(options)
    if amounts is not None:
        size = sum(target.orig.numel() for target in targets)
        alive = sum(int((target.mask != 0).sum()) for target in targets)
        given["amount"] = amounts[0].count(size, alive) if amounts[0].is_total else amounts[0].value
        if given["amount"] and not isinstance(given["amount"], float):
            Amount(given["amount"]).count(size, alive)
    pairs = [(target.module, target.parameter) for target in targets]
    keyed = {
        pair: (scores or {})[target.name]
        for pair, target in zip(pairs, targets, strict=True)
        if scores is not None
    }
    if getattr(kind, "PRUNING_TYPE", None) != "unstructured":
        raise RequestError(
            f"{kind.__name__} is of type '{getattr(kind, 'PRUNING_TYPE', None)}', not 'unstructured'",
            ["of all tensors together torch.nn.utils.prune can mask entries only"],
            "pass scope='local'",
        )
    torch_prune.global_unstructured(pairs, kind, importance_scores=keyed, **given)
    _each(targets, lambda target, at: None)


def _value(amount: Amount, target: Target, kind: Any, dim: int | None) -> float:
    """The amount as torch wants it: a share or count of what is left."""
    if not amount.is_total and isinstance(amount.value, float):
        return amount.value
    alive = target.mask != 0
    if dim is not None:
        alive = alive.movedim(dim, 0).flatten(1).any(1)
    return amount.count(alive.numel(), int(alive.sum()))


def _each(targets: Sequence[Target], apply: Callable[[Target, int], Any]) -> None:
    for at, target in enumerate(targets):
        apply(target, at)
        hook = own(target.module, target.parameter)
        for module, parameter in target.places[1:]:
            attach(module, parameter, target.mask, list(hook)[-1:])

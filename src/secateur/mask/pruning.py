"""Prune by masks: one entry to everything, in place, as `torch.nn.utils.prune` does.

What that module has is done by that module (`native.py`), so the masks are the same to the last tie. Other
structures, scopes and criteria are composed: a criterion scores entries, a structure groups them into units,
a scope says how many units of each tensor go.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import prune as torch_prune

from secateur.errors import RequestError
from secateur.mask import native
from secateur.mask.amount import Amount, read_amounts
from secateur.mask.criterion import criteria
from secateur.mask.evidence import Loss, gather_gradients, input_norms
from secateur.mask.hook import attach, hook_of, in_order, renew_uncalled
from secateur.mask.reporting import Sparsity, sparsity_of
from secateur.mask.scope import scopes
from secateur.mask.sparsegpt import sweep_layers
from secateur.mask.structure import Structure, read_structure
from secateur.mask.targets import Selector, Target, choose, parameters_of

Method: TypeAlias = str | type[torch_prune.BasePruningMethod] | Callable[[str, Tensor], Tensor]
"""A name, a method class of `torch.nn.utils.prune` or of the user, or a function from a tensor's name and
value to a score for each entry."""

_SPECIAL = ("identity", "custom", "ln", "sparsegpt")


class Written(torch_prune.BasePruningMethod):
    """Stands in a hook's history for a mask that was computed from scores.

    Args:
        made_by: The method and what else was asked, in words.
    """

    PRUNING_TYPE = "global"

    def __init__(self, made_by: str) -> None:
        self.made_by = made_by

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask that is there."""
        return default_mask


def prune(
    model: nn.Module,
    method: Method = "l1",
    *,
    amount: float | Mapping[str, float] | None = None,
    sparsity: float | Mapping[str, float] | None = None,
    scope: str = "local",
    structure: str | None = None,
    dim: int = 0,
    n: float | str = 2,
    select: Selector = None,
    parameters: Sequence[str] = ("weight",),
    with_bias: bool = True,
    importance_scores: Mapping[Any, Tensor] | None = None,
    masks: Mapping[Any, Tensor] | Tensor | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int | None = None,
    **options: Any,
) -> Sparsity:
    """Mask weights of a model, in place.

    Calls combine: what is masked stays so, and `amount` counts what is left.

    Args:
        model: Changed in place as `torch.nn.utils.prune` does: `weight` becomes `weight_orig * weight_mask`.
        method: "l1", "l2", "ln" (with `n`), "random", "identity" (a mask of ones), "custom" (with `masks`),
            "wanda", "taylor", "movement", "sparsegpt"; a subclass of `BasePruningMethod`, which is given
            `options`; or a function from a tensor's name and value to scores.
        amount: Share (float) or count (int) of the units that are left, as there; or by name pattern.
        sparsity: Instead: the share or count that is masked afterwards, in all.
        scope: "local" or "uniform" (of each tensor), "global" (of all together), "erk", "lamp".
        structure: "unstructured" (the default), "structured" (whole channels along `dim`), "row" (entries
            within their row; Wanda's default), blocks such as "1x4", n:m such as "2:4" (needs no amount).
        dim: For "structured": 0 are the outputs, 1 the inputs.
        n: For "ln": the order of the norm, also inf or "fro".
        select: Patterns of names, module types, a predicate, or (module, name) pairs; see `choose`.
        parameters: Names of parameters in their modules: ("weight", "bias").
        with_bias: Of structured pruning of outputs: mask the bias of a masked channel, too.
        importance_scores: Scores to use in place of the weights, by parameter name or (module, name).
        masks: For "custom": by parameter name or (module, name), or one for the only parameter chosen.
        data: For criteria that look at data: batches, as tensors, dicts of keyword inputs, or tuples whose
            first item is the input.
        loss: From model and batch to a scalar; needed for gradients, optional to run a batch otherwise.
        seed: For methods that draw; None goes on with PyTorch's generator.
        **options: Arguments of a method class; for "sparsegpt" `damp` and `block`.

    Returns:
        The sparsity of every chosen tensor and in all; printing it shows a table.

    Raises:
        RequestError: The request makes no sense, or nothing fits it.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> print(prune(net, method="l1", scope="global", amount=0.25))
        tensor    shape  zeros  of  sparsity
        0.weight  8x8       17  64    26.56%
        2.weight  4x8        7  32    21.88%
        all                 24  96    25.00%
    """
    request = _Request(method, scope, structure, dim, n, loss=loss, options=options)
    request.data = None if data is None else list(data)
    targets, left_alone = request.fitting(choose(model, select, parameters))
    with in_order(model), _seeded(seed):
        if method == "custom":
            native.custom(targets, _by_name(targets, masks, "masks"))
        elif method == "identity":
            native.identity(targets)
        else:
            scores = _by_name(targets, importance_scores, "importance_scores") if importance_scores else None
            amounts = request.amounts(amount, sparsity, targets)
            request.apply(model, targets, amounts, scores)
        if with_bias and request.word == "structured":
            _mask_biases(targets, dim)
    renew_uncalled(model)
    return sparsity_of(targets, left_alone)


@dataclass
class _Request:
    """What a user asks for, as `prune` explains it."""

    method: Method
    scope: str
    word: Any
    dim: int
    n: float | str
    loss: Loss | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: list[Any] | None = None

    def __post_init__(self) -> None:
        is_known = isinstance(self.method, str) and self.method not in _SPECIAL
        known = criteria[self.method] if is_known and isinstance(self.method, str) else None
        self.word = self.word or (known.structure if known else "unstructured")
        self.structure: Structure = read_structure(self.word, self.dim)
        scopes[self.scope]
        if self.options and not isinstance(self.method, type) and self.method != "sparsegpt":
            raise RequestError(
                f"unknown argument '{next(iter(self.options))}'",
                do="further arguments go to method classes and to 'sparsegpt'",
            )

    @property
    def is_native(self) -> bool:
        """Whether `torch.nn.utils.prune` does it."""
        return native.covers(self.method, self.scope, self.word)

    def fitting(self, targets: list[Target]) -> tuple[list[Target], dict[str, str]]:
        """The tensors that can have the structure, and why the others cannot."""
        reasons = {target.name: self.structure.misfit(tuple(target.orig.shape)) for target in targets}
        left_alone = {name: reason for name, reason in reasons.items() if reason}
        fitting = [target for target in targets if target.name not in left_alone]
        if not fitting:
            raise RequestError(
                f"no chosen tensor can be {self.word}",
                [f"{name}: {reason}" for name, reason in left_alone.items()],
                "choose others with select=, or another structure",
            )
        return fitting, left_alone

    def amounts(self, amount: Any, sparsity: Any, targets: Sequence[Target]) -> list[Amount] | None:
        """How much of each tensor goes; None where the method or the structure says it."""
        if self.structure.is_fixed:
            if amount is not None or sparsity is not None:
                raise RequestError(
                    f"amount is given, and {self.word} says how much goes", do="leave amount out"
                )
            return None
        if isinstance(self.method, type) and amount is None and sparsity is None:
            return None
        if self.scope not in ("local", "uniform") and isinstance(amount or sparsity, Mapping):
            raise RequestError(
                f"amounts by pattern and scope '{self.scope}' contradict each other",
                do="pass one amount, or scope='local'",
            )
        return read_amounts(amount, sparsity, [target.name for target in targets])

    def apply(
        self,
        model: nn.Module,
        targets: list[Target],
        amounts: list[Amount] | None,
        scores: dict[str, Tensor] | None,
    ) -> None:
        """Write the masks."""
        if self.method == "sparsegpt":
            self._sweep(model, targets, amounts)
        elif self.is_native:
            kind, given = native.method_class(self.method, self.word, self.dim, self.n)
            run = native.everywhere if self.scope == "global" else native.local
            run(targets, kind, amounts, scores, {**given, **self.options})
        else:
            found = scores or self._scores(model, targets)
            units = [self.structure.units(target.name, found[target.name], target.mask) for target in targets]
            keeps = [one.alive for one in units] if amounts is None else scopes[self.scope](units, amounts)
            for target, keep in zip(targets, keeps, strict=True):
                self._write(target, self.structure.spread(keep, tuple(target.orig.shape)))

    def _write(self, target: Target, keep: Tensor) -> None:
        name = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "scores")
        mask = target.mask * keep.to(target.orig.dtype)
        for module, parameter in target.places:
            attach(module, parameter, mask, [Written(f"{name}, {self.word}, {self.scope}")])

    def _scores(self, model: nn.Module, targets: Sequence[Target]) -> dict[str, Tensor]:
        if not isinstance(self.method, str):
            return {target.name: self._called(target) for target in targets}
        if self.method == "ln":
            order = float(self.n) if self.n != "fro" else 2.0
            return {target.name: target.value.abs() ** order for target in targets}
        criterion = criteria[self.method]
        evidence: dict[str, Tensor] = {}
        if criterion.needs == "inputs":
            evidence = input_norms(model, targets, self._needed_data(), self.loss)
        elif criterion.needs == "gradients":
            if self.loss is None:
                raise RequestError(f"'{self.method}' needs a loss", do="pass loss=, from model and batch")
            evidence = gather_gradients(self.method, model, targets, self._needed_data(), self.loss)
        return {target.name: criterion.score(target.value, evidence.get(target.name)) for target in targets}

    def _called(self, target: Target) -> Tensor:
        function: Any = self.method
        found = function(target.name, target.value)
        if tuple(found.shape) != tuple(target.orig.shape):
            raise RequestError(
                f"the scores of {target.name} are {list(found.shape)}, "
                f"the parameter {list(target.orig.shape)}",
                do="return one score for each entry",
            )
        return found

    def _needed_data(self) -> list[Any]:
        if not self.data:
            raise RequestError(f"'{self.method}' needs data", do="pass data=, a list of batches or a loader")
        return self.data

    def _sweep(self, model: nn.Module, targets: list[Target], amounts: list[Amount] | None) -> None:
        if self.word not in ("unstructured",) and not self.structure.is_fixed:
            raise RequestError(
                f"'sparsegpt' cannot be {self.word}", do="pass 'unstructured' or n:m such as '2:4'"
            )
        if self.scope not in ("local", "uniform"):
            raise RequestError(f"'sparsegpt' cannot be {self.scope}", do="pass scope='local'")
        swept = sweep_layers(
            model, targets, amounts, self.structure, self._needed_data(), loss=self.loss, **self.options
        )
        for target, keep in swept:
            self._write(target, keep)


def _by_name(targets: Sequence[Target], given: Any, what: str) -> dict[str, Tensor]:
    """Read tensors that are keyed by parameter name or (module, name), or one for the only target.

    Raises:
        RequestError: One is missing, unknown, or of another shape.
    """
    if isinstance(given, Tensor) and len(targets) == 1:
        return {targets[0].name: given}
    if not isinstance(given, Mapping):
        raise RequestError(f"{what} is {type(given).__name__}", do="pass a dict by parameter name")
    found: dict[str, Tensor] = {}
    for target in targets:
        keys = [target.name, *target.places]
        key = next((key for key in keys if key in given), None)
        if key is None and what == "masks":
            raise RequestError(f"{what} has nothing for {target.name}", do="add it, or choose with select=")
        found[target.name] = target.value if key is None else given[key]
        if tuple(found[target.name].shape) != tuple(target.orig.shape):
            raise RequestError(
                f"{what} of {target.name} is {list(found[target.name].shape)}, "
                f"the parameter {list(target.orig.shape)}",
                do="pass one value for each entry",
            )
    return found


def _mask_biases(targets: Sequence[Target], dim: int) -> None:
    """Mask the bias of every output channel whose weights are all masked."""
    for target in targets:
        for module, parameter in target.places:
            outputs = 1 if isinstance(module, _ConvTransposeNd) and module.groups == 1 else 0
            rank = target.orig.dim()
            if parameter != "weight" or dim % rank != outputs or "bias" not in parameters_of(module):
                continue
            kept = (target.mask.movedim(outputs, 0).flatten(1) != 0).any(1)
            bias = Target("bias", ((module, "bias"),))
            if len(kept) == bias.orig.numel() and hook_of(module, parameter) is not None:
                mask = bias.mask * kept.to(bias.orig.dtype)
                attach(module, "bias", mask, [Written("the channels of its weight")])


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed and leave PyTorch's generator as it was; None draws from that generator."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

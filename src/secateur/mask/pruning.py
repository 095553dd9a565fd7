"""Prune by masks: one entry to everything, in place, as `torch.nn.utils.prune` does.

What that module has is computed by it (`native.py`), so the masks are the same to the last tie. Other
structures, scopes and criteria are composed: a criterion scores entries, a structure groups them into units,
a scope says how many units of each tensor go.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import prune as torch_prune

from secateur.capture.randomness import OwnNumbers
from secateur.capture.unwrap import require_whole
from secateur.errors import RequestError
from secateur.mask.amount import Amount, read_amounts
from secateur.mask.criterion import criteria
from secateur.mask.evidence import Loss, MaskEvidence
from secateur.mask.hook import in_order, renew_uncalled
from secateur.mask.native import masks_by, method_class
from secateur.mask.reporting import Sparsity, sparsity_of
from secateur.mask.scope import scopes
from secateur.mask.sparsegpt import sweep_layers
from secateur.mask.structure import read_structure
from secateur.mask.targets import Selector, Target, choose, parameters_of

Method: TypeAlias = str | type[torch_prune.BasePruningMethod] | Callable[[str, Tensor], Tensor]
"""A name, a method class of `torch.nn.utils.prune` or of the user, or a function from a tensor's name and
value to a score for each entry."""

_SPECIAL = ("identity", "custom", "sparsegpt")
_LOCAL = ("local", "uniform")


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
    example_inputs: Any = None,
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
        data: For criteria that look at data: batches, in the forms that `secateur.prune` takes.
        loss: From model and batch to a scalar, for gradients; None for the default of `secateur.prune`, which
            asks for labels here. Where inputs are looked at: how to run the model on a batch. The batches may
            then be of any form.
        example_inputs: What the model takes, as for `secateur.prune`; None to read it off the first batch.
        seed: For methods that draw; None goes on with PyTorch's generator.
        **options: Arguments of a method class; for "sparsegpt" `damp` and `block`.

    Returns:
        The sparsity of every chosen tensor and in all; printing it shows a table.

    Raises:
        RequestError: The request makes no sense, or nothing fits it.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> print(prune(net, method="l1", scope="global", amount=0.25))
        tensor    shape  zeros  of  sparsity
        0.weight  8x8       17  64    26.56%
        2.weight  4x8        7  32    21.88%
        all                 24  96    25.00%
    """
    require_whole(model)
    evidence = None if data is None else MaskEvidence(model, data, loss, example_inputs)
    request = _Request(method, scope, structure, dim, n, evidence, options)
    targets, left_alone = request.fitting(choose(model, select, parameters))
    with in_order(model), OwnNumbers(seed) if seed is not None else nullcontext():
        if method == "custom":
            given = _by_name(targets, masks, "masks")
            request.write([(target, target.mask * given[target.name].to(target.mask)) for target in targets])
        elif method == "identity":
            request.write([(target, target.mask) for target in targets])
        else:
            scores = _by_name(targets, importance_scores, "importance_scores") if importance_scores else None
            request.apply(targets, request.amounts(amount, sparsity, targets), scores)
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
    evidence: MaskEvidence | None
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        is_known = isinstance(self.method, str) and self.method not in _SPECIAL
        self.criterion = criteria[str(self.method)] if is_known else None
        self.word = self.word or (self.criterion.structure if self.criterion else "unstructured")
        self.structure = read_structure(self.word, self.dim)
        scopes[self.scope]
        if self.options and not isinstance(self.method, type) and self.method != "sparsegpt":
            raise RequestError(
                f"unknown argument '{next(iter(self.options))}'",
                do="further arguments go to method classes and to 'sparsegpt'",
            )

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
        if self.scope not in _LOCAL and isinstance(amount or sparsity, Mapping):
            raise RequestError(
                f"amounts by pattern and scope '{self.scope}' contradict each other",
                do="pass one amount, or scope='local'",
            )
        return read_amounts(amount, sparsity, [target.name for target in targets])

    def apply(
        self, targets: list[Target], amounts: list[Amount] | None, scores: dict[str, Tensor] | None
    ) -> None:
        """Compute the masks and write them."""
        if self.method == "sparsegpt":
            for swept in self._sweep(targets, amounts):
                self.write([swept])
            return
        native = method_class(self.method, self.scope, self.word, self.dim, self.n)
        if native is not None:
            values = scores or {target.name: target.value for target in targets}
            made = masks_by(native[0], {**native[1], **self.options}, targets, amounts, values, self.scope)
            for target, (mask, method) in zip(targets, made, strict=True):
                target.write(mask, method)
            return
        found = scores or self._scores(targets)
        units = [self.structure.units(target.name, found[target.name], target.mask) for target in targets]
        keeps = [one.alive for one in units] if amounts is None else scopes[self.scope](units, amounts)
        spread = [self.structure.spread(keep, one.shape) for keep, one in zip(keeps, units, strict=True)]
        self.write([(target, target.mask * keep) for target, keep in zip(targets, spread, strict=True)])

    def write(self, masks: Iterable[tuple[Target, Tensor]]) -> None:
        """Put masks on tensors."""
        name = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "scores")
        for target, mask in masks:
            target.write(mask, Written(f"{name}, {self.word}, {self.scope}"))

    def _scores(self, targets: Sequence[Target]) -> dict[str, Tensor]:
        found = dict(self._scored(targets))
        for target in targets:
            scores = found[target.name]
            if scores.shape != target.orig.shape:
                raise RequestError(
                    f"the scores of {target.name} are {list(scores.shape)}, "
                    f"the parameter {list(target.orig.shape)}",
                    do="return one score for each entry",
                )
            if bool(scores.isnan().any()):
                raise RequestError(f"the scores of {target.name} hold NaN", do="mend the weights or the data")
        return found

    def _scored(self, targets: Sequence[Target]) -> Iterable[tuple[str, Tensor]]:
        if self.criterion is None:
            function: Any = self.method
            return [(target.name, function(target.name, target.value)) for target in targets]
        if self.criterion.of == "gradients":
            return self._needed_data().sum_gradients(str(self.method), targets).items()
        looked: Mapping[str, tuple[Any, ...]] = {}
        if self.criterion.of == "inputs":
            looked = {name: (norms,) for name, norms in self._needed_data().input_norms(targets).items()}
        elif self.method == "ln":
            looked = {target.name: (self.n,) for target in targets}
        formula = self.criterion.formula
        return [(target.name, formula(target.value, *looked.get(target.name, ()))) for target in targets]

    def _needed_data(self) -> MaskEvidence:
        if self.evidence is None:
            raise RequestError(f"'{self.method}' needs data", do="pass data=, a list of batches or a loader")
        return self.evidence

    def _sweep(self, targets: list[Target], amounts: list[Amount] | None) -> Iterable[tuple[Target, Tensor]]:
        if self.word != "unstructured" and not self.structure.is_fixed:
            raise RequestError(
                f"'sparsegpt' cannot be {self.word}", do="pass 'unstructured' or n:m such as '2:4'"
            )
        if self.scope not in _LOCAL:
            raise RequestError(f"'sparsegpt' cannot be {self.scope}", do="pass scope='local'")
        return sweep_layers(targets, amounts, self.structure, self._needed_data(), **self.options)


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
            if len(kept) == bias.orig.numel():
                bias.write(bias.mask * kept, Written("the channels of its weight"))

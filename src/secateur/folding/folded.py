"""Fold: batch norms go into the layers before them, and a proof says that nothing else changed."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.capture.copies import copy_module
from secateur.capture.meta import require_values
from secateur.capture.unwrap import require_whole, unwrap, warn_of_compiled
from secateur.coupling import on_any_substrate
from secateur.errors import CaptureError, CheckError, NoEffectWarning, RequestError
from secateur.folding.pairs import NormPair
from secateur.folding.proof import Setting
from secateur.folding.surgery import folded_tensors, without_norms
from secateur.mask.hook import is_masked
from secateur.mask.state import remove
from secateur.proof import Verdict
from secateur.proof.inputs import other_inputs, shapes_of
from secateur.result import Result


@dataclass(frozen=True, eq=False)
class Folded:
    """What `fold` returns.

    Attributes:
        model: A new model without the folded norms, in the mode of the one that was given.
        layers: By name of each folded norm: the layer that it went into.
        left: By name of each norm that stays: why.
        verdicts: The proof at each size of inputs, by its shapes; empty if it was not asked for.
    """

    model: nn.Module = field(repr=False)
    layers: Mapping[str, str]
    left: Mapping[str, str]
    verdicts: Mapping[str, Verdict] = field(default_factory=dict, repr=False)

    @property
    def relative_error(self) -> float | None:
        """The largest difference of any operator's results in the proof; None without one."""
        return max((one.relative_error for one in self.verdicts.values()), default=None)

    @property
    def summary(self) -> str:
        """One line of what was done."""
        count = len(self.layers) + len(self.left)
        text = f"{len(self.layers)} of {count} batch norms were folded into the layers before them"
        if self.relative_error is None:
            return text
        limits = dict.fromkeys(limit for one in self.verdicts.values() for limit in one.limits)
        return "; ".join((f"{text}: folded == unfolded within {self.relative_error:.1g}", *limits))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why norms stay, a line for each reason."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            by_reason.setdefault(reason, []).append(name)
        return tuple(
            f"{names[0]}{f' and {len(names) - 1} more stay' if names[1:] else ' stays'}: {reason}"
            for reason, names in by_reason.items()
        )

    def __str__(self) -> str:
        return "\n".join([self.summary, *self.reasons])


def fold(
    model: Result | nn.Module, example_inputs: Any = None, *, check: bool = True, seed: int = 0
) -> Folded:
    """Fold batch norms into the convolutions and linear layers before them, for deployment.

    In eval mode a batch norm scales and shifts each channel by numbers that it holds, and so can the layer
    before it. A norm is folded if it alone reads what the layer makes, nothing else holds or reads the
    layer's tensors or its own, and no hook may look at what lies between: by the record of a run, on inputs
    of the sizes of the example and of another one, not by the order of modules. The others stay, with the
    reason. The new model is for running only: without its norms it trains otherwise.

    Args:
        model: What `prune` returned, or any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs; None for those
            that `prune` was given.
        check: Prove that the folded model computes what the unfolded one does, operator by operator in
            float64.
        seed: For the random numbers of the proof.

    Returns:
        The new model, what went where, and the proof.

    Raises:
        RequestError: There are no example inputs, or the model has no numbers to prove.
        CaptureError: The model cannot be run on these inputs.
        CheckError: The folded model computes something else.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> folded = sc.fold(net.eval(), torch.zeros(1, 3, 8, 8))
        >>> folded.model
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
        >>> folded.layers, folded.relative_error < 1e-12
        ({'1': '0'}, True)
    """
    inputs = model.example_inputs if isinstance(model, Result) and example_inputs is None else example_inputs
    plain = unwrap(model.model if isinstance(model, Result) else model)
    require_whole(plain)
    warn_of_compiled(plain)
    if inputs is None:
        raise RequestError(
            f"the input of {type(plain).__name__} is not known", do="pass example_inputs=, one small batch"
        )
    if check:
        require_values(plain)
    if is_masked(plain):
        plain = remove(copy_module(plain))
    folded = on_any_substrate(lambda substrate: _fold_on(plain, inputs, substrate, check=check, seed=seed))
    if not folded.layers:
        why = "; ".join(dict.fromkeys(folded.left.values())) or "there is none that runs"
        warnings.warn(f"no batch norm was folded: {why}", NoEffectWarning, stacklevel=2)
    return folded


def _fold_on(model: nn.Module, example_inputs: Any, substrate: str, *, check: bool, seed: int) -> Folded:
    settings = {shapes_of(example_inputs): Setting.of(model, example_inputs, substrate)}
    kind = next(iter(settings.values())).recorded.graph.substrate
    for other in other_inputs(example_inputs, training=False):
        with suppress(CaptureError):
            settings[shapes_of(other)] = Setting.of(model, other, kind)
            break
    pairs, left = _agreed(settings)
    pairs, overflowing = _within_range(model, pairs)
    left |= overflowing
    pairs, made, refused = _that_run(model, pairs, list(settings.values()))
    left |= refused
    verdicts = {}
    for shapes, setting in settings.items() if check and pairs else ():
        verdicts[shapes] = setting.verify(made, list(pairs), seed)
        if not verdicts[shapes].passed:
            raise CheckError(
                "the folded model does not compute what the unfolded one does",
                [f"on inputs of {shapes}", _in_words_of_folding(str(verdicts[shapes].failure))],
                "leave the norms where they are, and report the model",
            )
    return Folded(made, {name: pair.layer for name, pair in pairs.items()}, left, verdicts)


def _in_words_of_folding(text: str) -> str:
    return text.replace("masked and cut", "unfolded and folded").replace("the cut model", "the folded model")


def _agreed(settings: Mapping[str, Setting]) -> tuple[dict[str, NormPair], dict[str, str]]:
    """The norms that may be folded on inputs of every size, and the reasons of the others."""
    first, *others = settings.values()
    pairs, left = dict(first.pairs), dict(first.reasons)
    for shapes, setting in zip(list(settings)[1:], others, strict=True):
        for name, pair in first.pairs.items():
            other = setting.pairs.get(name)
            if other is None or other.layer != pair.layer or other.rest != pair.rest:
                reason = setting.reasons.get(name, "it reads another layer, or does not run")
                left.setdefault(name, f"on inputs of {shapes} {reason}")
                pairs.pop(name, None)
        for name, reason in setting.reasons.items():
            if name not in left:
                left[name] = f"on inputs of {shapes} {reason}"
    return {name: pair for name, pair in pairs.items() if name not in left}, left


def _within_range(
    model: nn.Module, pairs: Mapping[str, NormPair]
) -> tuple[dict[str, NormPair], dict[str, str]]:
    """The pairs whose folded numbers are finite in the type of the layer, and the reasons of the others."""
    left = {}
    for name, pair in pairs.items():
        if any(one.is_meta for one in model.parameters()):
            break
        weight, bias = folded_tensors(model, pair)
        if not (bool(weight.isfinite().all()) and bool(bias.isfinite().all())):
            left[name] = f"folded, the numbers of {pair.layer} are not finite in {str(weight.dtype)[6:]}"
    return {name: pair for name, pair in pairs.items() if name not in left}, left


def _that_run(
    model: nn.Module, pairs: Mapping[str, NormPair], settings: Sequence[Setting]
) -> tuple[dict[str, NormPair], nn.Module, dict[str, str]]:
    """The pairs without whose norms the model runs as it did, what it is then, and the reasons of others.

    Raises:
        CheckError: Each can be folded, but not all of them.
    """

    def problem(names: Sequence[str]) -> tuple[str | None, nn.Module]:
        made = without_norms(model, [pairs[name] for name in names])
        found = (setting.compare(made, names) for setting in settings)
        return next((str(one) for one in found if one is not None), None), made

    failure, made = problem(list(pairs))
    if failure is None:
        return dict(pairs), made, {}
    alone = {name: problem([name])[0] for name in pairs}
    left = {
        name: f"without it {_in_words_of_folding(reason)}"
        for name, reason in alone.items()
        if reason is not None
    }
    kept = {name: pair for name, pair in pairs.items() if name not in left}
    failure, made = problem(list(kept))
    if failure is not None:
        raise CheckError(
            "each norm can be folded, but not all of them", [failure], "leave them where they are"
        )
    return kept, made, left

"""The pipeline, from a model to a proven smaller one.

model, example -> capture -> couple -> score -> select -> plan -> cut -> check -> result
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.capture.batches import Samples, batches
from secateur.capture.meta import is_on_meta, require_values
from secateur.capture.unwrap import unwrap, warn_of_compiled
from secateur.costs import Cost, cost_of
from secateur.coupling import Groups, Recorded, couple_graph, on_any_substrate
from secateur.errors import EmptyCutError, NoEffectWarning
from secateur.plans.plan import Plan, make_plan
from secateur.recovery import choose as choose_steps
from secateur.result import Result, recover_result
from secateur.score import Criterion, Scores, require_data, score
from secateur.score.criterion import Scorer
from secateur.select import Budget, Selection, select, select_exactly
from secateur.settle import Attempt, Settler
from secateur.timing import Timing, Tries
from secateur.write.shards import open_shards


def couple(
    model: nn.Module,
    example_inputs: Any,
    protect: Sequence[str] = (),
    axes: str = "heads",
    state: Collection[str] | None = None,
) -> Groups:
    """Find which channels belong together.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        state: Names of what the model returns only to be given back at its next call, such as a cache: keys
            of a dict, fields of a dataclass, positions in a tuple. All else that it returns keeps its shape.
            None finds them: a container under the name of an optional parameter of `forward`, which a second
            call reads.

    Returns:
        The groups; printing them shows group, size, members, and what is protected and why.

    Raises:
        CaptureError: The model cannot be run on these inputs.
        RequestError: A pattern fits nothing.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        >>> [(group.name, group.size, group.reason) for group in couple(model, torch.zeros(1, 3, 8, 8))]
        [('0', 8, None), ('0#2', 3, 'model input'), ('2', 4, 'model output')]
    """
    return Recorded.of(unwrap(model), example_inputs, state=state).couple(_listed(protect), axes=axes)


def measure(model: nn.Module, example_inputs: Any) -> Cost:
    """Count parameters, MACs and bytes.

    Args:
        model: Any module; not changed.
        example_inputs: As for `couple`; MACs are those of one forward pass on them.
    """
    model = unwrap(model)
    return cost_of(model, couple(model, example_inputs))


def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    ratio: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    size_bytes: float | str | None = None,
    memory: float | str | None = None,
    latency_ms: float | str | None = None,
    channels: Mapping[str, float] | None = None,
    keep: Mapping[str, Sequence[int]] | None = None,
    criterion: str | Scorer | Criterion = "l2",
    scope: str = "global",
    round_to: int = 1,
    min_keep: float = 0.1,
    protect: Sequence[str] = (),
    axes: str = "heads",
    data: Iterable[Any] | None = None,
    recover: str | Sequence[str] | None = None,
    check: bool = True,
    seed: int = 0,
    state: Collection[str] | None = None,
) -> Result:
    """Prune a model: couple, score, select, cut, and prove the result.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        ratio: Share of channels to remove, 0 <= ratio < 1: of each group (scope local) or of all together.
        macs: MACs that may stay, as a share up to 1.0 or a count.
        params: Parameters that may stay, as a share up to 1.0 or a count.
        size_bytes: Bytes of parameters and buffers that may stay, as a share up to 1.0, a count, or a text
            such as "2MB", "2MiB" or, as for every budget of this kind, "50%".
        memory: Bytes that a forward pass without gradients on the example inputs may need at once: weights
            and the activations that are alive together. As a share, a count or a text.
        latency_ms: Milliseconds that the forward pass on the example inputs may take on this machine, as
            `secateur.latency` measures it. A number is milliseconds, also below 1; "50%" is a share.
        channels: Share of channels to remove by group pattern; other groups stay whole.
        keep: Instead of a budget exactly the indices to keep, by group name; other groups stay whole, and
            criterion, scope, round_to and min_keep do not count.
        criterion: A registered name such as "l2", "bn-scale", "activation-mean", "taylor" or "jacobian"; what
            `secateur.criterion` returns for a name with options; or a callable from a group's view to scores.
        scope: How channels compare: "global", "local" or "isomorphic".
        round_to: Kept counts are rounded up to a multiple of this; 8 suits most hardware.
        min_keep: Share of each group that always stays, at least one channel.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        data: Batches for criteria that look at activations or gradients, and for recovery steps: a loader,
            list or generator, as for `recover`. Labels beside the inputs are for gradients.
        recover: Recovery steps to run after the check, such as ["absorb", "refit"]; None leaves the kept
            weights bit-equal to the original's.
        check: Prove that the cut model computes what the masked one does.
        seed: For criteria and checks that draw.
        state: Names of what the model returns only for its next call, as for `couple`.

    Returns:
        The new model with its plan, proof and cost.

    Raises:
        RequestError: The request makes no sense, or nothing can be pruned (with the reason of every group).
        CaptureError: The model cannot be run on these inputs.
        CheckError: The cut model does not compute what the masked one does.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> result.model[0].out_features, result.verdict.exact
        (4, True)
    """
    budget = Budget.of(
        ratio=ratio,
        macs=macs,
        params=params,
        size_bytes=size_bytes,
        memory=memory,
        latency_ms=latency_ms,
        channels=channels,
        keep=keep,
    )
    model = unwrap(model)
    require_data(criterion, data is not None)
    if isinstance(data, Iterator):
        data = list(data)  # criterion and recovery both read it
    samples = None if data is None else Samples(data, model, example_inputs)
    if recover:  # what makes no sense is better refused before the work than after
        recover = choose_steps(recover, has_data=data is not None)
        data = batches(data, model, example_inputs)
    warn_of_compiled(model)
    if check:
        require_values(model)
    asked = _Request(budget, criterion, scope, round_to, min_keep, tuple(_listed(protect)), axes, seed, state)
    groups, attempt = _settle(model, example_inputs, asked, check=check, samples=samples)
    # What was recorded has all its buffers on the meta device; the model's own may have values.
    cut = attempt.plan.apply(model) if is_on_meta(model) else attempt.model
    result = Result(
        model=cut,
        plan=attempt.plan,
        verdict=attempt.verdict,
        before=cost_of(model, groups),
        after=cost_of(attempt.model, couple_graph(attempt.graph)),
        groups=groups,
        original=model,
        example_inputs=example_inputs,
    )
    return recover_result(result, data, recover) if recover else result


def plan_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    weights: Path | str | None = None,
    ratio: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    size_bytes: float | str | None = None,
    memory: float | str | None = None,
    latency_ms: float | str | None = None,
    channels: Mapping[str, float] | None = None,
    keep: Mapping[str, Sequence[int]] | None = None,
    criterion: str | Scorer | Criterion = "l2",
    scope: str = "global",
    round_to: int = 1,
    min_keep: float = 0.1,
    protect: Sequence[str] = (),
    axes: str = "heads",
    data: Iterable[Any] | None = None,
    seed: int = 0,
    state: Collection[str] | None = None,
) -> Plan:
    """Plan a cut without making it, of a model that may be too large for the memory.

    The model may be on the meta device, where it has shapes and no values. Its parameters are then scored
    from the files of a checkpoint, one tensor at a time; `stream` cuts those files by the plan. A plan is
    proven by shape alone: the proof by number needs a model with values.

    Args:
        model: Any module; not changed.
        example_inputs: As for `prune`; for a model on the meta device only their shapes count.
        weights: The values that count: a folder with `model.safetensors.index.json` and its files, or one
            `.safetensors` file. None takes the model's own.
        ratio: As for `prune`; so are the arguments that follow.
        macs: MACs that may stay.
        params: Parameters that may stay.
        size_bytes: Bytes of parameters and buffers that may stay.
        memory: Bytes that a forward pass may need at once.
        latency_ms: Milliseconds that a forward pass may take; the model must have values.
        channels: Share of channels to remove by group pattern.
        keep: Exactly the indices to keep, by group name.
        criterion: A registered name or a callable; "random" needs no values.
        scope: How channels compare.
        round_to: Kept counts are rounded up to a multiple of this.
        min_keep: Share of each group that always stays.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        data: Batches for criteria that look at activations or gradients; the model must have values.
        seed: For criteria that draw.
        state: Names of what the model returns only for its next call, as for `couple`.

    Returns:
        The plan.

    Raises:
        RequestError: The request makes no sense, nothing can be pruned, or the criterion needs values that
            neither the model nor `weights` has.
        CaptureError: The model cannot be run on these inputs.
        CheckpointError: The weights are damaged.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(plan_model(net, torch.zeros(1, 4), ratio=0.5, criterion="random"))
        plan for Sequential: ratio=0.5, 50.0% of the channels removed
          0: 8 -> 4
    """
    budget = Budget.of(
        ratio=ratio,
        macs=macs,
        params=params,
        size_bytes=size_bytes,
        memory=memory,
        latency_ms=latency_ms,
        channels=channels,
        keep=keep,
    )
    asked = _Request(budget, criterion, scope, round_to, min_keep, tuple(_listed(protect)), axes, seed, state)
    stored = None if weights is None else open_shards(weights)
    model = unwrap(model)
    require_data(criterion, data is not None)
    samples = None if data is None else Samples(data, model, example_inputs)
    return _settle(model, example_inputs, asked, check=False, stored=stored, samples=samples)[1].plan


@dataclass(frozen=True)
class _Request:
    """What a user asks for, as `prune` explains it."""

    budget: Budget
    criterion: str | Scorer | Criterion
    scope: str
    round_to: int
    min_keep: float
    protect: tuple[str, ...]
    axes: str
    seed: int
    state: Collection[str] | None


def _listed(patterns: Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _settle(
    model: nn.Module,
    example_inputs: Any,
    asked: _Request,
    *,
    check: bool,
    stored: Mapping[str, Tensor] | None = None,
    samples: Samples | None = None,
) -> tuple[Groups, Attempt]:
    """Couple, score, select and cut, until the cut is right."""

    def on(substrate: str) -> tuple[Groups, Attempt]:
        recorded = Recorded.of(model, example_inputs, substrate, asked.state)
        return _settle_recorded(recorded, asked, check, stored, samples)

    return on_any_substrate(on)


def _settle_recorded(
    recorded: Recorded,
    asked: _Request,
    check: bool,
    stored: Mapping[str, Tensor] | None,
    samples: Samples | None,
) -> tuple[Groups, Attempt]:
    model, vetoes = recorded.model, dict[str, str]()
    settler = Settler(recorded, check=check, seed=asked.seed)
    timing = Timing(model, recorded.inputs) if asked.budget.kind == "latency_ms" else None
    scores: Scores | None = None
    tries = None if timing is None else Tries(timing, asked.budget)
    while True:
        groups = recorded.couple(asked.protect, vetoes, asked.axes)
        if asked.budget.kind == "keep":
            selection = select_exactly(groups, asked.budget.keep)
        else:
            scores = score(
                model, groups, asked.criterion, asked.seed, data=samples, stored=stored, known=scores
            )
            selection = _select(groups, scores, asked, timing)
        _require_effect(groups, selection, asked.budget)
        plan = make_plan(
            model,
            groups,
            selection.keep,
            requested=asked.budget.request,
            reasons=selection.reasons,
            why=selection.why,
            account=selection.account,
        )
        attempt = settler.settle(groups, plan)
        if attempt.vetoes:
            vetoes.update(attempt.vetoes)
        elif tries is None:
            return groups, attempt
        elif (found := tries.add(groups, attempt)) is not None:
            return found


def _select(groups: Groups, scores: Scores, asked: _Request, timing: Timing | None) -> Selection:
    options: dict[str, Any] = {
        "scope": asked.scope,
        "min_keep": asked.min_keep,
        "round_to": asked.round_to,
    }
    if timing is None:
        return select(groups, scores, asked.budget, **options)
    gauge = timing.gauge(groups)
    with timing.running():
        return select(groups, scores, asked.budget, **options, gauge=gauge)


def _require_effect(groups: Groups, selection: Selection, budget: Budget) -> None:
    """A request that prunes nothing is an error, unless nothing was asked."""
    if any(len(indices) < groups[name].size for name, indices in selection.keep.items()):
        return
    account = selection.account
    if budget.asks_for_nothing or (account is not None and account.wanted >= account.whole):
        warnings.warn(f"{budget} asks for nothing to be pruned", NoEffectWarning, stacklevel=5)
        return
    raise EmptyCutError(
        f"{budget} prunes nothing",
        [f"{name}: {reason}" for name, reason in selection.reasons.items()]
        + [
            f"{name}: keeps {len(indices)} of {groups[name].size}" for name, indices in selection.keep.items()
        ],
        "ask for more, or lower min_keep or round_to",
    )

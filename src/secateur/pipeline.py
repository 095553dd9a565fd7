"""The pipeline, from a model to a proven smaller one.

model, example -> capture -> couple -> score -> select -> plan -> cut -> check -> result
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn

from secateur.architecture import tensor_shapes
from secateur.asking import Ask, Filled, PlanWords, Words, takes
from secateur.capture.batches import Samples, batches
from secateur.capture.layouts import layout_note
from secateur.capture.meta import is_on_meta, require_values
from secateur.capture.outside import outside_held
from secateur.capture.switches import garbage_waits
from secateur.capture.unwrap import unwrap, warn_of_compiled
from secateur.configs.uniform import uniform
from secateur.costs import Cost, cost_of
from secateur.coupling import Groups, Recorded, couple_graph, on_any_substrate
from secateur.coupling.model import couple
from secateur.coupling.protect import protected_names
from secateur.depth.drop import Dropped
from secateur.depth.joint import prune_jointly
from secateur.errors import EmptyCutError, NoEffectWarning, RequestError
from secateur.plans.making import make_plan
from secateur.plans.memory import remember
from secateur.plans.plan import Account, Plan
from secateur.recovery import choose as choose_steps
from secateur.result import Result, recover_result
from secateur.score import Criterion, Scores, require_data, score
from secateur.score.criterion import Scorer, as_criterion
from secateur.searching import Compared, WidthSearch, require_comparable
from secateur.select import Budget, Offer, Selection, offer
from secateur.select.targets import aimed
from secateur.settle import Attempt, Settler
from secateur.timing import Timing, Tries
from secateur.write.experts import joined_experts
from secateur.write.shards import open_shards


def measure(model: nn.Module, example_inputs: Any) -> Cost:
    """Count parameters, MACs and bytes.

    Args:
        model: Any module; not changed.
        example_inputs: As for `couple`; MACs are those of one forward pass on them.
    """
    model = unwrap(model)
    return cost_of(model, couple(model, example_inputs))


@takes(Words)
def prune(
    model: nn.Module,
    example_inputs: Any,
    ask: Ask | None = None,
    *,
    data: Iterable[Any] | None = None,
    **words: Unpack[Words],
) -> Result:
    """Prune a model: couple, score, select, cut, and prove the result.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        ask: A request that was made before; the words beside it replace its own.
        data: Batches for criteria that look at activations or gradients, and for recovery steps: a loader,
            list or generator, as for `recover`. Labels beside the inputs are for gradients. With data and no
            criterion the model is cut by what remains after the refit, and recovered.
        **words: The request, one budget at least; the attributes of `secateur.Ask` say what there is.

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
    ask = Ask.of(ask, **words).filled(has_data=data is not None)
    model = unwrap(model)
    require_data(ask.criterion, data is not None)
    require_comparable(ask, model, has_data=data is not None)
    if isinstance(data, Iterator):
        data = list(data)  # criterion and recovery both read it
    steps = None
    if ask.recover:  # what makes no sense is better refused before the work than after
        steps = choose_steps(ask.recover, has_data=data is not None)
    warn_of_compiled(model)
    if ask.check:
        require_values(model)
    ask = ask.named(model)
    compared = None
    if data is not None and (ask.search is not None or ask.depth):
        state = couple(model, example_inputs, state=ask.state, outputs=ask.outputs).graph.state
        compared = Compared.of(model, example_inputs, data, state)
        data = compared.data
    inputs = batches(data, model, example_inputs) if steps else None
    if compared is not None and ask.depth:
        kept = compared

        def cut_widths(inner: nn.Module, inner_ask: Filled) -> Result:
            return _cut(inner, example_inputs, inner_ask, kept.data, kept)

        result = prune_jointly(model, example_inputs, ask, kept, cut_widths)
    else:
        result = _cut(model, example_inputs, ask, data, compared)
    return recover_result(result, inputs, steps) if steps and not isinstance(result, Dropped) else result


def _cut(
    model: nn.Module, example_inputs: Any, ask: Filled, data: Iterable[Any] | None, compared: Compared | None
) -> Result:
    """Prune a model, and leave its weights as they are."""
    seen = data if compared is None else compared.seen
    samples = None if seen is None else Samples(seen, model, example_inputs)
    groups, attempt = _settle(model, example_inputs, ask, samples=samples, compared=compared)
    return _result_of(model, example_inputs, groups, attempt)


@garbage_waits()
def _result_of(model: nn.Module, example_inputs: Any, groups: Groups, attempt: Attempt) -> Result:
    """What a settled attempt amounts to."""
    # What was recorded has all its buffers on the meta device; the model's own may have values.
    cut = attempt.plan.apply(model) if is_on_meta(model) else attempt.model
    return Result(
        model=cut,
        plan=_remembered(cut, attempt.plan),
        verdict=attempt.verdict,
        before=cost_of(model, groups),
        after=cost_of(attempt.model, couple_graph(attempt.graph)),
        groups=groups,
        original=model,
        example_inputs=example_inputs,
    )


@takes(PlanWords)
def plan_model(
    model: nn.Module,
    example_inputs: Any,
    ask: Ask | None = None,
    *,
    weights: Path | str | None = None,
    data: Iterable[Any] | None = None,
    **words: Unpack[PlanWords],
) -> Plan:
    """Plan a cut without making it, of a model that may be too large for the memory.

    The model may be on the meta device, where it has shapes and no values. Its parameters are then scored
    from the files of a checkpoint, one tensor at a time; `stream` cuts those files by the plan. A plan is
    proven by shape alone: the proof by number needs a model with values.

    Args:
        model: Any module; not changed.
        example_inputs: As for `prune`; for a model on the meta device only their shapes count.
        ask: A request that was made before, as for `prune`; its `check` and `recover` do not count.
        weights: The values that count: a folder with `model.safetensors.index.json` and its files, or one
            `.safetensors` file. None takes the model's own.
        data: Batches for criteria that look at activations or gradients; the model must have values.
        **words: The request, as for `prune`. A latency needs a model with values, the criterion "random" does
            not.

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
    for word in words.keys() & {"check", "recover", "search", "depth"}:
        raise TypeError(f"plan() got an unexpected keyword argument '{word}'")
    model = unwrap(model)
    ask = replace(Ask.of(ask, **words), check=False).filled(has_data=data is not None)
    if ask.search is not None or ask.depth:
        word = "depth" if ask.search is None else "search"
        raise RequestError(f"{word} was asked for, which cuts models", do="take the plan of sc.prune(...)")
    stored = None if weights is None else joined_experts(open_shards(weights), tensor_shapes(model))
    require_data(ask.criterion, data is not None)
    samples = None if data is None else Samples(data, model, example_inputs)
    attempt = _settle(model, example_inputs, ask.named(model), stored=stored, samples=samples)[1]
    return _remembered(attempt.model, attempt.plan)


def _remembered(cut: nn.Module, plan: Plan) -> Plan:
    """The plan that a cut model remembers, of all cuts before it too, with what was measured since."""
    made = Plan.of(cut)
    if made is None:
        return plan
    made = made.model_copy(update={"account": plan.account})
    remember(cut, made)
    return made


def _settle(
    model: nn.Module,
    example_inputs: Any,
    ask: Filled,
    *,
    stored: Mapping[str, Tensor] | None = None,
    samples: Samples | None = None,
    compared: Compared | None = None,
) -> tuple[Groups, Attempt]:
    """Couple, score, select and cut, until the cut is right."""

    def on(substrate: str) -> tuple[Groups, Attempt]:
        sample = None if samples is None else next(iter(samples))
        with garbage_waits(), outside_held():
            recorded = Recorded.of(model, example_inputs, substrate, ask.returns, sample)
            recorded.look_around()
        return _settle_recorded(recorded, ask, stored, samples, compared)

    return on_any_substrate(on)


def _settle_recorded(
    recorded: Recorded,
    ask: Filled,
    stored: Mapping[str, Tensor] | None,
    samples: Samples | None,
    compared: Compared | None,
) -> tuple[Groups, Attempt]:
    model, vetoes = recorded.model, dict[str, str]()
    budget, wanted = ask.budget, tuple(ask.budget.parts)
    settler = Settler(
        recorded, check=ask.check, seed=ask.seed, corrections=ask.corrections, uniform=ask.uniform
    )
    timing = Timing(model, recorded.inputs) if budget.is_timed else None
    scores: Scores | None = None
    tries = None if timing is None else Tries(timing, budget)
    while True:
        groups = recorded.couple(protected_names(model, ask.protect), vetoes, ask.axes, wanted)
        if ask.uniform:
            shared = uniform(groups, settler.described)
            vetoes.update(shared.vetoes)
            if shared.vetoes:
                continue
            groups = shared.groups
        groups = aimed(groups, ask.target)
        selection, offered = budget.exactly(groups), None
        if selection is None:
            scores = score(
                model,
                groups,
                ask.criterion,
                ask.seed,
                data=samples,
                stored=stored,
                known=scores,
                asked_of=budget.asks_of,
            )
            offered = _offer(groups, scores, ask, timing)
            selection = offered.selection()
        _require_effect(groups, selection, budget)
        plan_of = partial(_plan_of, model, groups, ask)
        attempt = settler.settle(groups, plan_of(selection))
        if attempt.vetoes:
            vetoes.update(attempt.vetoes)
        elif compared is not None and ask.search is not None and offered is not None:
            search = WidthSearch(recorded, groups, offered, ask, compared, plan_of, settler)
            return groups, search.best(attempt)
        elif tries is None:
            return groups, attempt
        elif (found := tries.add(groups, attempt)) is not None:
            return found


def _plan_of(model: nn.Module, groups: Groups, ask: Filled, selection: Selection) -> Plan:
    return make_plan(
        model,
        groups,
        selection.keep,
        requested=ask.request,
        reasons=selection.reasons,
        why=selection.why,
        account=_noted(selection.account, model, ask.criterion),
    )


def _noted(account: Account | None, model: nn.Module, criterion: str | Scorer | Criterion) -> Account | None:
    """An account that says, too, which layers were not differentiated as they lie."""
    note = layout_note(model) if as_criterion(criterion).needs == "gradients" else ""
    if account is None or not note:
        return account
    return account.model_copy(update={"notes": (*account.notes, note)})


def _offer(groups: Groups, scores: Scores, ask: Filled, timing: Timing | None) -> Offer:
    choose = partial(
        offer, groups, scores, ask.budget, scope=ask.scope, min_keep=ask.floors, round_to=ask.round_to
    )
    if timing is None:
        return choose()
    gauge = timing.gauge(groups)
    with timing.running():
        return choose(gauge=gauge)


def _require_effect(groups: Groups, selection: Selection, budget: Budget) -> None:
    """A request that prunes nothing is an error, unless nothing was asked."""
    if any(len(indices) < groups[name].size for name, indices in selection.keep.items()):
        return
    account = selection.account
    if budget.asks_for_nothing or (account is not None and account.wanted >= account.whole):
        warnings.warn(f"{budget} asks for nothing to be pruned", NoEffectWarning, stacklevel=5)
        return
    is_uneven = any(reason.startswith("uniform: no config") for reason in selection.reasons.values())
    raise EmptyCutError(
        f"{budget} prunes nothing",
        [f"{name}: {reason}" for name, reason in selection.reasons.items()]
        + [
            f"{name}: keeps {len(indices)} of {groups[name].size}" for name, indices in selection.keep.items()
        ],
        ("leave uniform=True out, " if is_uneven else "") + "ask for more, or lower min_keep or round_to",
    )

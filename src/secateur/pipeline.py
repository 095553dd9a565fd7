"""The pipeline, from a model to a proven smaller one.

model, example -> capture -> couple -> score -> select -> plan -> cut -> check -> result
"""

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from secateur.capture import capture
from secateur.capture.batches import batches
from secateur.capture.copies import copy_module
from secateur.capture.meta import is_on_meta, placed, require_values
from secateur.capture.record import record
from secateur.capture.unwrap import unwrap, warn_of_compiled
from secateur.check import Verdict, keep_masks
from secateur.couple import Groups, couple_graph, has_unused_parameters, read_in_training_only
from secateur.errors import NoEffectWarning, PathError, RequestError, UnstablePathError
from secateur.graph.node import Graph
from secateur.mask.hook import is_masked
from secateur.mask.state import remove
from secateur.measure import Cost, cost_of
from secateur.plan import Plan, identity_plan, make_plan
from secateur.recover import MEMORY_BYTES, Recovered, Recovery, Subject
from secateur.recover import choose as choose_steps
from secateur.recover import recover as run_recovery
from secateur.recover import table as recovery_table
from secateur.score import Scores, score
from secateur.score.criterion import Scorer
from secateur.select import Budget, Selection, select, select_exactly
from secateur.settle import Attempt, Settler
from secateur.write.checkpoint import save_model
from secateur.write.shards import open_shards


@dataclass(frozen=True, eq=False)
class Result:
    """What `prune` returns.

    Attributes:
        model: A new, smaller model of the same class.
        plan: What was kept; applies to any model of the original architecture.
        verdict: The proof; None if it was not asked for.
        before: Cost of the original.
        after: Cost of the cut model.
        groups: The groups of the original, for questions of why.
        original: The uncut model as it was given, for `recover`.
        example_inputs: The inputs it was recorded on.
        recovered: What each recovery step did to each layer.
        errors: With data, the output error before and after each recovery step.
    """

    model: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)
    verdict: Verdict | None
    before: Cost
    after: Cost
    groups: Groups = field(repr=False)
    original: nn.Module = field(repr=False)
    example_inputs: Any = field(repr=False)
    recovered: tuple[Recovery, ...] = ()
    errors: tuple[Recovered, ...] = ()

    def table(self) -> Table:
        """The table that `print` shows."""
        table = Table("", "before", "after", "left", title=f"pruned {self.plan.model}", title_justify="left")
        rows = [
            ("parameters", self.before.params, self.after.params),
            ("MACs", self.before.macs, self.after.macs),
            ("bytes", self.before.size_bytes, self.after.size_bytes),
            ("channels", *_channels(self.plan)),
        ]
        for name, before, after in rows:
            table.add_row(name, f"{before:,}", f"{after:,}", f"{after / max(before, 1):.1%}")
        return table

    def __str__(self) -> str:
        console = Console(width=110, file=io.StringIO(), color_system=None)
        console.print(self.table())
        console.print(f"asked {self.plan.requested}; removed {self.plan.achieved:.1%} of the channels")
        console.print(
            f"groups that could be cut: {len(self.plan.groups)}, left alone: {len(self.plan.reasons)}"
        )
        console.print(f"check: {self.verdict or 'not asked for'}")
        for recovery in self.recovered:
            console.print(str(recovery), soft_wrap=True)
        if self.errors:
            console.print(recovery_table(self.errors), soft_wrap=True)
        output: Any = console.file
        return output.getvalue().rstrip()


def _channels(plan: Plan) -> tuple[int, int]:
    return sum(group.size for group in plan.groups), sum(len(group.keep) for group in plan.groups)


def couple(model: nn.Module, example_inputs: Any, protect: Sequence[str] = (), axes: str = "heads") -> Groups:
    """Find which channels belong together.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".

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
    model, example_inputs = placed(unwrap(model), example_inputs)
    graph = capture(model, example_inputs)
    return couple_graph(graph, protect, _training_only(model, example_inputs, graph), axes)


def _training_only(model: nn.Module, example_inputs: Any, graph: Graph) -> dict[str, str]:
    """The groups that parts read which only run in training, with the reason."""
    if not has_unused_parameters(graph):
        return {}
    trained, _ = record(model, example_inputs, graph.substrate, training=True)
    return read_in_training_only(couple_graph(graph), trained)


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
    macs: float | None = None,
    params: float | None = None,
    channels: Mapping[str, float] | None = None,
    keep: Mapping[str, Sequence[int]] | None = None,
    criterion: str | Scorer = "l2",
    scope: str = "global",
    round_to: int = 1,
    min_keep: float = 0.1,
    protect: Sequence[str] = (),
    axes: str = "heads",
    data: Iterable[Any] | None = None,
    recover: str | Sequence[str] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Result:
    """Prune a model: couple, score, select, cut, and prove the result.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        ratio: Share of channels to remove, 0 <= ratio < 1: of each group (scope local) or of all together.
        macs: MACs that may stay, as a share up to 1.0 or a count.
        params: Parameters that may stay, as a share up to 1.0 or a count.
        channels: Share of channels to remove by group pattern; other groups stay whole.
        keep: Instead of a budget exactly the indices to keep, by group name; other groups stay whole, and
            criterion, scope, round_to and min_keep do not count.
        criterion: "l1", "l2", "bn-scale", "random", or a callable from a group's view to scores.
        scope: How channels compare: "global", "local" or "isomorphic".
        round_to: Kept counts are rounded up to a multiple of this; 8 suits most hardware.
        min_keep: Share of each group that always stays, at least one channel.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        data: Batches of inputs for recovery steps, as for `recover`.
        recover: Recovery steps to run after the check, such as ["absorb", "refit"]; None leaves the kept
            weights bit-equal to the original's.
        check: Prove that the cut model computes what the masked one does.
        seed: For criteria and checks that draw.

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
    budget = Budget.of(ratio=ratio, macs=macs, params=params, channels=channels, keep=keep)
    model = unwrap(model)
    if recover:  # what makes no sense is better refused before the work than after
        recover = choose_steps(recover, has_data=data is not None)
        data = batches(data, model, example_inputs)
    warn_of_compiled(model)
    if check:
        require_values(model)
    asked = _Request(budget, criterion, scope, round_to, min_keep, tuple(_listed(protect)), axes, seed)
    groups, attempt = _settle(model, example_inputs, asked, check=check)
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
    macs: float | None = None,
    params: float | None = None,
    channels: Mapping[str, float] | None = None,
    keep: Mapping[str, Sequence[int]] | None = None,
    criterion: str | Scorer = "l2",
    scope: str = "global",
    round_to: int = 1,
    min_keep: float = 0.1,
    protect: Sequence[str] = (),
    axes: str = "heads",
    seed: int = 0,
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
        channels: Share of channels to remove by group pattern.
        keep: Exactly the indices to keep, by group name.
        criterion: A registered name or a callable; "random" needs no values.
        scope: How channels compare.
        round_to: Kept counts are rounded up to a multiple of this.
        min_keep: Share of each group that always stays.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        seed: For criteria that draw.

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
    budget = Budget.of(ratio=ratio, macs=macs, params=params, channels=channels, keep=keep)
    asked = _Request(budget, criterion, scope, round_to, min_keep, tuple(_listed(protect)), axes, seed)
    stored = None if weights is None else open_shards(weights)
    model = unwrap(model)
    return _settle(model, example_inputs, asked, check=False, stored=stored)[1].plan


@dataclass(frozen=True)
class _Request:
    """What a user asks for, as `prune` explains it."""

    budget: Budget
    criterion: str | Scorer
    scope: str
    round_to: int
    min_keep: float
    protect: tuple[str, ...]
    axes: str
    seed: int


def _listed(patterns: Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _settle(
    model: nn.Module,
    example_inputs: Any,
    asked: _Request,
    *,
    check: bool,
    stored: Mapping[str, Tensor] | None = None,
) -> tuple[Groups, Attempt]:
    """Couple, score, select and cut, until the cut is right.

    Some models fill a cache at their first run; some ask whether they run on fake tensors, and take another
    path on real ones.
    """
    model, example_inputs = placed(model, example_inputs)
    try:
        try:
            return _settle_on(model, example_inputs, "auto", asked, check, stored)
        except UnstablePathError:
            return _settle_on(model, example_inputs, "auto", asked, check, stored)
    except PathError:
        return _settle_on(model, example_inputs, "real", asked, check, stored)


def _settle_on(
    model: nn.Module,
    example_inputs: Any,
    substrate: str,
    asked: _Request,
    check: bool,
    stored: Mapping[str, Tensor] | None,
) -> tuple[Groups, Attempt]:
    graph = capture(model, example_inputs, substrate)
    vetoes = _training_only(model, example_inputs, graph)
    settler = Settler(model, example_inputs, graph, check=check, seed=asked.seed)
    scores: Scores | None = None
    while True:
        groups = couple_graph(graph, asked.protect, vetoes, asked.axes)
        if asked.budget.kind == "keep":
            selection = select_exactly(groups, asked.budget.keep)
        else:
            scores = score(model, groups, asked.criterion, asked.seed, stored=stored, known=scores)
            selection = select(
                groups,
                scores,
                asked.budget,
                scope=asked.scope,
                min_keep=asked.min_keep,
                round_to=asked.round_to,
            )
        _require_effect(groups, selection, asked.budget)
        requested = str(asked.budget)
        plan = make_plan(model, groups, selection.keep, requested=requested, reasons=selection.reasons)
        attempt = settler.settle(groups, plan)
        if not attempt.vetoes:
            return groups, attempt
        vetoes.update(attempt.vetoes)


def recover_result(
    result: Result,
    data: Iterable[Any] | None = None,
    steps: str | Sequence[str] | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Result:
    """Improve a cut model without training and without labels.

    With 8 batches or more the last one is kept from the steps, and the output error is measured on it; with
    fewer it is measured on the last one, too, which the steps then have seen.

    Args:
        result: What `prune` returned; not changed.
        data: A loader, list or generator of batches, read once and held in memory; a few hundred samples do.
            Tensors, tuples or dicts; labels beside the inputs are ignored: a model of one input is given the
            first item of a tuple. None where the steps can do without.
        steps: Registered recovery steps, run in order: "absorb", "refit", "batch-norm". None for "absorb" and
            "refit", or for "absorb" alone if there is no data; "batch-norm" is for where nothing is refitted.
        memory_bytes: What the activations of all batches between two layers may take; beyond it a step uses
            fewer batches and says so.

    Returns:
        The same result with a new model, what each step did (`recovered`), and the error of the outputs
        before and after each step (`errors`).

    Raises:
        RequestError: A step is unknown or needs data, or the data is none.
        CaptureError: The model does not run on a batch, or computes NaN or infinity on it.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> better = recover_result(result, [torch.randn(64, 4)], ["absorb", "refit"])
        >>> print(better.recovered[0])
        absorb 2: approximate, 4 inputs went into its bias, the mean of a varying response
        >>> [one.step for one in better.errors if one.after < one.before]
        ['absorb', 'refit']
    """
    chosen = choose_steps(steps, has_data=data is not None)
    subject = Subject(
        original=result.original,
        cut=result.model,
        example_inputs=result.example_inputs,
        groups=result.groups,
        keep=keep_masks(result.groups, result.plan),
        data=batches(data, result.original, result.example_inputs),
        memory_bytes=memory_bytes,
    )
    try:
        found = run_recovery(subject, chosen)
    except PathError:
        if result.groups.graph.substrate == "real":
            raise
        # Without a check nothing has told yet that real tensors take another path than the fake ones.
        groups = couple_graph(capture(result.original, result.example_inputs, "real"))
        found = run_recovery(replace(subject, groups=groups, keep=keep_masks(groups, result.plan)), chosen)
    model, notes, errors = found
    return replace(
        result, model=model, recovered=(*result.recovered, *notes), errors=(*result.errors, *errors)
    )


def save(result: Result | nn.Module, folder: Path | str, *, packed: bool = False) -> Path:
    """Write a pruned model: `weights.safetensors` and `plan.json`; no pickle.

    Args:
        result: What `prune` returned; its model may have been trained since. Or an uncut model, such as one
            with masks: they are saved with all that they hide, and `load` puts them back.
        folder: Where to write; made if missing.
        packed: Write sparse tensors as one bit for each entry and the values that are not zero: smaller by
            their sparsity, the same to the last bit when loaded. Masks are baked in: what they hide is not
            saved, and `mask.mask_zeros` puts them back on what was loaded.

    Returns:
        The folder.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> net = nn.Linear(256, 64)
        >>> _ = sc.mask.prune(net, amount=0.9)
        >>> folder = save(net, tempfile.mkdtemp(), packed=True)
        >>> (folder / "weights.safetensors").stat().st_size < 0.2 * 4 * 256 * 64
        True
        >>> torch.equal(sc.load(folder, nn.Linear(256, 64)).weight, net.weight)
        True
    """
    model = result if isinstance(result, nn.Module) else result.model
    plain = remove(copy_module(model)) if is_masked(model) else model
    plan = identity_plan(plain, "", {}) if isinstance(result, nn.Module) else result.plan
    return save_model(plain if packed else model, plan, folder, packed=packed)


def _require_effect(groups: Groups, selection: Selection, budget: Budget) -> None:
    """A request that prunes nothing is an error, unless nothing was asked."""
    if any(len(indices) < groups[name].size for name, indices in selection.keep.items()):
        return
    if budget.kind != "channels" and budget.value in (0, 1.0):
        warnings.warn(f"{budget} asks for nothing to be pruned", NoEffectWarning, stacklevel=5)
        return
    raise RequestError(
        f"{budget} prunes nothing",
        [f"{name}: {reason}" for name, reason in selection.reasons.items()]
        + [
            f"{name}: keeps {len(indices)} of {groups[name].size}" for name, indices in selection.keep.items()
        ],
        "ask for more, or lower min_keep or round_to",
    )

"""What `prune` returns, and what can be done with it: recover and save."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.architecture import tensor_shapes
from secateur.capture.batches import batches
from secateur.capture.copies import copy_module
from secateur.capture.unwrap import require_whole, unwrap
from secateur.configs.fields import stale_fields
from secateur.costs import Cost
from secateur.coupling import Groups, Recorded, on_any_substrate
from secateur.cut import stale_integers
from secateur.errors import RequestError
from secateur.mask.hook import is_masked
from secateur.mask.state import remove
from secateur.plans.altered import plan_as_it_is
from secateur.plans.making import identity_plan
from secateur.plans.plan import Plan
from secateur.proof import Verdict, kept_by
from secateur.recovery import MEMORY_BYTES, SECONDS, Recovered, Recovery, Subject, say_on_terminal
from secateur.recovery import choose as choose_steps
from secateur.recovery import recover as run_recovery
from secateur.recovery import table as recovery_table
from secateur.recovery.step import steps as registered
from secateur.rich import Table
from secateur.tables import printed
from secateur.write.checkpoint import require_same_model, save_model


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
        original: The uncut model as it was given, for `recover`; with `depth`, without the dropped blocks.
        example_inputs: The inputs it was recorded on.
        recovered: What each recovery step did to each layer.
        errors: With data, the output error before and after each recovery step.
        dense: What these are errors against where `original` lacks blocks: the model as it was given. None
            elsewhere.
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
    dense: nn.Module | None = field(default=None, repr=False)

    @property
    def unchanged_integers(self) -> tuple[str, ...]:
        """Integers that may be stale: as wide as what was cut inside of a module, and not changed.

        Of a model that is built from a config also its fields, where no config says what is left. Code that
        runs later than what was recorded, an export or a change of the classifier, may read them.
        """
        fields = [] if self.plan.numbers else stale_fields(self.original, self.model)
        return (*stale_integers(self.original, self.plan.widths), *fields)

    def table(self) -> Table:
        """The table that `print` shows."""
        channels = ("channels", *_channels(self.plan))
        return cost_table(f"pruned {self.plan.model}", self.before, self.after, channels)

    def __str__(self) -> str:
        lines = [
            printed(self.table()),
            f"asked {self.plan.requested}; removed {self.plan.achieved:.1%} of the channels",
            f"groups that could be cut: {len(self.plan.groups)}, left alone: {len(self.plan.reasons)}",
            *(self.plan.account.lines if self.plan.account else ()),
            f"check: {self.verdict or 'not asked for'}",
            *map(str, self.recovered),
            *([recovery_table(self.errors)] if self.errors else ()),
        ]
        return "\n".join(lines)


def cost_table(title: str, before: Cost, after: Cost, counted: tuple[str, int, int]) -> Table:
    """A table of what a cut model costs beside the uncut one.

    Args:
        title: Its title.
        before: Cost of the uncut model.
        after: Cost of the cut model.
        counted: What was removed: a word, how many there were, how many are left.
    """
    table = Table("", "before", "after", "left", title=title, title_justify="left")
    rows = [
        ("parameters", before.params, after.params),
        ("MACs", before.macs, after.macs),
        ("bytes", before.size_bytes, after.size_bytes),
        ("bytes in use", before.memory_bytes, after.memory_bytes),
        counted,
    ]
    for name, was, left in rows:
        table.add_row(name, f"{was:,}", f"{left:,}", f"{left / max(was, 1):.1%}")
    return table


def _channels(plan: Plan) -> tuple[int, int]:
    return sum(group.size for group in plan.groups), sum(len(group.keep) for group in plan.groups)


def recover_result(
    result: Result,
    data: Iterable[Any] | None = None,
    steps: str | Sequence[str] | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
    say: Callable[[str], None] = say_on_terminal,
) -> Result:
    """Improve a cut model without training and without labels.

    With 8 batches or more the last one is kept from the steps, and the output error is measured on it; with
    fewer it is measured on the last one, too, which the steps then have seen.

    Args:
        result: What `prune` returned; not changed.
        data: A loader, list or generator of batches, read once and held in memory; a few hundred samples do.
            Tensors, tuples or dicts; labels beside the inputs are ignored: a model of one input is given the
            first item of a tuple. None where the steps can do without.
        steps: Registered recovery steps, run in order: "absorb", "attention", "refit", "blocks", "distil",
            "batch-norm". None for "absorb" and "refit", or for "absorb" alone if there is no data.
            "attention" is for heads that lost a part of their width: before "refit", or last where what they
            read lost channels. "blocks" and "distil" are best behind these, in this order: they take
            gradients, and as long as some training. "batch-norm" is for where nothing is refitted. "absorb"
            adds constants to what is there, so it runs once, first, and on a fresh cut only: of a model that
            was recovered or trained since, None is for "refit" alone.
        memory_bytes: What the activations of all batches between two layers may take; beyond it a step uses
            fewer batches and says so.
        seconds: What "blocks" may take, and "distil"; one that would take longer takes fewer steps and says
            so.
        say: Told how long each of the two will take before it begins (default: a line on standard error,
            where that is a terminal).

    Returns:
        The same result with a new model, what each step did (`recovered`), and the error of the outputs
        before and after each step (`errors`).

    Raises:
        RequestError: A step is unknown or needs data, or the data is none; or "absorb" does not come first,
            or the model was recovered or trained since the cut.
        CaptureError: The model does not run on a batch, or computes NaN or infinity on it.

    Example:
        >>> import torch, secateur as sc
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> better = sc.recover(result, [torch.randn(64, 4)], ["absorb", "refit"])
        >>> print(better.recovered[0])
        absorb 2: approximate, 4 inputs went into its bias, the mean of a varying response
        >>> [one.step for one in better.errors if one.after < one.before]
        ['absorb', 'refit']
    """
    if not isinstance(result, Result):
        raise RequestError(
            f"a {type(result).__name__} was passed, not the result of a cut",
            do="pass what sc.prune returned, or sc.pair(original, pruned, plan, example_inputs)",
        )
    chosen = choose_steps(steps, has_data=data is not None)
    if any(registered[name].needs_fresh for name in chosen):
        chosen = choose_steps(steps, has_data=data is not None, changed=_changed_since_cut(result))
    subject = Subject(
        original=result.original,
        cut=result.model,
        example_inputs=result.example_inputs,
        groups=result.groups,
        kept=kept_by(result.plan, result.groups),
        data=batches(data, result.original, result.example_inputs),
        memory_bytes=memory_bytes,
        seconds=seconds,
        say=say,
        dense=result.dense,
    )

    def on(substrate: str) -> tuple[nn.Module, tuple[Recovery, ...], tuple[Recovered, ...]]:
        groups = result.groups
        if substrate != groups.graph.substrate:  # without a check nothing has told yet of another path
            state = groups.graph.state
            groups = Recorded.of(result.original, result.example_inputs, substrate, state).couple()
        return run_recovery(replace(subject, groups=groups, kept=kept_by(result.plan, groups)), chosen)

    model, notes, errors = on_any_substrate(on, result.groups.graph.substrate)
    return replace(
        result, model=model, recovered=(*result.recovered, *notes), errors=(*result.errors, *errors)
    )


def _changed_since_cut(result: Result) -> str:
    """The first tensor of a result's model that is not what the cut made; empty for a fresh cut."""
    fresh = result.plan.apply(result.original).state_dict()
    for name, held in result.model.state_dict().items():
        made = fresh.get(name)
        if isinstance(held, Tensor) and not (
            isinstance(made, Tensor) and made.dtype == held.dtype and torch.equal(made.to(held.device), held)
        ):
            return name
    return ""


def plan_and_model(result: Result | nn.Module) -> tuple[Plan, nn.Module]:
    """What is saved of a result, or of a model alone, and the plan that makes it as it is now.

    Args:
        result: A result, or a model: cut, uncut, masked, or in a wrapper.

    Raises:
        RequestError: The model was changed after it was cut, so that no plan makes it.
    """
    model = unwrap(result if isinstance(result, nn.Module) else result.model)
    require_whole(model)
    made_by = Plan.of(model) or (None if isinstance(result, nn.Module) else result.plan)
    plain = _plain(model)
    if made_by is None:
        return identity_plan(plain, "", {}), model
    was_masked = plain is not model and made_by.shapes.keys() <= tensor_shapes(model).keys()
    return plan_as_it_is(made_by, model if was_masked else plain), model


def save_as(plan: Plan, model: nn.Module, folder: Path | str, *, packed: bool, overwrite: bool) -> Path:
    """Write a model and its plan, unless the folder holds another model; see `secateur.save`.

    Raises:
        RequestError: The folder holds another model.
    """
    if not overwrite:
        require_same_model(folder, plan)
    return save_model(_plain(model) if packed else model, plan, folder, packed=packed)


def _plain(model: nn.Module) -> nn.Module:
    """A model without its masks, which are baked in; the model itself if it has none."""
    return remove(copy_module(model)) if is_masked(model) else model

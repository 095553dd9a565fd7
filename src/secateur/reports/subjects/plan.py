"""A plan, or the folder of a saved model: what was asked for, and what each group keeps."""

from dataclasses import replace
from typing import Any

import torch

from secateur.errors import SecateurError
from secateur.pipeline import measure
from secateur.plans.plan import Plan
from secateur.reports import figures
from secateur.reports.content import ModelRow, Report
from secateur.reports.rows import model_row, plan_rows
from secateur.reports.section import Measure, Section, Values
from secateur.reports.subject import Folder, registered
from secateur.sources.open import build, is_file_word
from secateur.write.checkpoint import PLAN, load_plan

_WEIGHTS = ("*.safetensors", "*.weights")
_COUNTED: dict[str, tuple[str, Measure]] = {
    "ratio": ("Channels", "amount"),
    "channels": ("Channels", "amount"),
    "macs": ("MACs", "amount"),
    "params": ("Parameters", "amount"),
    "size_bytes": ("Bytes", "amount"),
    "memory": ("Bytes in use", "amount"),
    "latency_ms": ("Milliseconds", "real"),
}
"""What each budget counts."""


@registered("plan")
def of_plan(thing: Any) -> Report | None:
    """The widths, and for a folder what its model costs."""
    if isinstance(thing, Plan):
        return plan_report(thing)
    if not isinstance(thing, Folder) or not (thing.path / PLAN).is_file():
        return None
    plan = load_plan(thing.path)
    told = plan_report(plan)
    files = [file for pattern in _WEIGHTS for file in thing.path.glob(pattern)]
    size_bytes = sum(file.stat().st_size for file in files) or None
    try:
        stages = _measured(plan, thing.source, size_bytes)
    except (SecateurError, RuntimeError) as error:
        what = str(error).partition("\n")[0]
        stages = (ModelRow("original", None, plan.first.params, None, None, None),)
        stages += (ModelRow("saved", None, None, None, size_bytes, None),)
        notes = (*told.notes, f"what the model costs was not measured: {what}")
        return replace(told, stages=stages, notes=notes)
    return replace(told, stages=stages)


def _measured(plan: Plan, source: str, size_bytes: int | None) -> tuple[ModelRow, ...]:
    """Cost of the architecture and of what was cut out of it; no weights are read."""
    first = plan.first
    word = source or first.source
    if not word or (not source and is_file_word(word)):
        raise SecateurError(f"its plan names {word or 'no source'}: add @SOURCE to the folder")
    with torch.random.fork_rng(devices=[]):
        built = build(word, {} if source else first.source_arguments)
    example = built.example_inputs
    if example is None:
        if built.input_shape is None:
            raise SecateurError(f"the input of {word} is not known")
        example = torch.zeros(*built.input_shape)
    original = model_row("original", measure(built.model, example))
    if not plan.groups and not plan.dropped and plan.previous is None:
        return (_saved(original, size_bytes),)
    return original, _saved(model_row("saved", measure(plan.apply(built.model), example)), size_bytes)


def _saved(row: ModelRow, size_bytes: int | None) -> ModelRow:
    return replace(row, name="saved", size_bytes=size_bytes)


def plan_report(plan: Plan) -> Report:
    """What a plan says by itself."""
    plans = [plan]
    while plans[0].previous is not None:
        plans.insert(0, plans[0].previous)
    groups = plan_rows(plans)
    left, all_of = sum(group.kept for group in groups), sum(group.size for group in groups)
    is_ratio = plan.requested.kind == "ratio" and len(plans) == 1
    dropped = [block for one in plans for block in one.dropped]
    notes = (*(plan.account.notes if plan.account else ()), *(f"dropped block {name}" for name in dropped))
    return Report(
        title=f"{plan.model}, planned",
        created="",
        command=plan.command,
        model=plan.first.source or plan.model,
        requested_ratio=plan.requested.value if is_ratio else None,
        achieved_ratio=1 - left / all_of if all_of else None,
        groups=groups,
        notes=notes,
        more=_account(plan),
    )


def _account(plan: Plan) -> tuple[Section, ...]:
    """How the budget was met."""
    told = plan.account
    if told is None:
        return ()
    amounts = {"uncut": told.whole, "wanted": told.wanted, "reached": told.reached, "measured": told.measured}
    known = {name: amount for name, amount in amounts.items() if amount is not None}
    title, measure = _COUNTED.get(told.kind, (told.kind, "amount"))
    columns = (Values("Model", tuple(known)), Values(title, tuple(known.values()), measure))
    share = figures.percent(told.reached / told.whole if told.whole else None)
    sentence = f"Asked for {plan.requested}, by {told.criterion}, scope {told.scope}; {share} is left."
    return (Section("budget", "Budget", (sentence,), columns, place=50),)

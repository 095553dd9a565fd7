"""`secateur prune`: cut a model to a budget, prove it, save it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from secateur.asking import Ask
from secateur.cli.asking import AskOptions, CriterionOptions, read_words
from secateur.cli.data import CalibrationOptions
from secateur.cli.flatten import Like
from secateur.cli.options import (
    ComputeOptions,
    OutputOptions,
    TargetOptions,
    WeightedModelOptions,
    in_float32,
)
from secateur.cli.terminal import Answer, command_line, say, timed
from secateur.explanation import explain
from secateur.penalise.scales import prunable_scales
from secateur.penalise.sparsity import near_zero_share
from secateur.pipeline import couple
from secateur.pipeline import prune as prune_model
from secateur.reports.formats import require_suffix, write_report
from secateur.reports.subjects import report_of
from secateur.result import Result
from secateur.write.checkpoint import save_model


def prune(
    model: WeightedModelOptions,
    target: TargetOptions,
    outputs: OutputOptions,
    asked: Annotated[dict[str, Any], Like(AskOptions)],
    scoring: CriterionOptions,
    calibration: CalibrationOptions,
    place: ComputeOptions,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report: .html, .md, .txt or .json.")
    ] = None,
    why: Annotated[bool, typer.Option("--explain", help="Say of each group why it has its width.")] = False,
) -> Answer:
    """Cut channels out of a model, prove the result and save it.

    Example: secateur prune runs/sparse --ratio 0.7 --criterion bn-scale --recover absorb,refit --data digits
    --save runs/pruned
    """
    target.require_free(model.model)
    if report is not None:
        require_suffix(report)
    opened, work = model.open(place.seed, place.device), calibration.open(place.seed)
    if work is not None:
        opened = in_float32(opened)
        if not work.task.has_plain_targets:
            work.task.require(opened.model, work.train)
    example = outputs.of(opened, None if work is None else work.example)
    criterion = scoring.choose()
    if work is not None and criterion is not None:
        criterion = work.criterion(opened.model, criterion)
    ask = Ask.of(**{**read_words(asked), "criterion": criterion})
    if ask.budget.kind == "ratio" and scoring.criterion == "bn-scale":
        _warn_of_cliff(opened.model, example, ask.budget.value)
    with timed("pruning"):
        data = None if work is None else work.evidence(calibration.images or 1024, place.seed)
        result = prune_model(opened.model, example, ask, data=data)
    plan = result.plan.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(result.model, plan, target.save)
    result = replace(result, plan=plan)
    numbers, lines = _numbers(result, str(folder)), [str(result)]
    if report is not None:
        write_report(report_of(result), report)
        numbers["report"] = str(report)
    if why:
        reasons = explain(plan)
        numbers["explanation"] = reasons.to_dict()
        lines.append(str(reasons))
    wrote = f"wrote {folder}" + (f" and {report}" if report else "")
    return Answer(numbers, "\n".join([*lines, wrote]))


def _warn_of_cliff(model: nn.Module, example: Any, ratio: float) -> None:
    share = near_zero_share(prunable_scales(model, couple(model, example)))
    if ratio > share:
        say(
            f"warning: only {share * 100:.0f} % of the prunable batch-norm scales are near zero, "
            f"{ratio * 100:.0f} % is beyond the cliff\n  train sparse with a larger --s, or ask for less"
        )


def _numbers(result: Result, folder: str) -> dict[str, object]:
    verdict = result.verdict
    return {
        "requested": str(result.plan.requested),
        "achieved_ratio": result.plan.achieved,
        "account": None if result.plan.account is None else result.plan.account.model_dump(mode="json"),
        "before": vars(result.before),
        "after": vars(result.after),
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
        "groups": {group.name: [group.size, len(group.keep)] for group in result.plan.groups},
        "left_alone": dict(result.plan.reasons),
        "recovered": [str(recovery) for recovery in result.recovered],
        "output_errors": [
            {"step": one.step, "before": one.before, "after": one.after} for one in result.errors
        ],
        "saved": folder,
    }

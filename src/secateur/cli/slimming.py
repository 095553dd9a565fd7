"""What `demo` and `slim` share: run, report, tell."""

import torch

from secateur.cli.options import command_line, emit, say
from secateur.domains.classification import Splits
from secateur.domains.classification.slimming import SlimConfig, slim
from secateur.domains.classification.summary import slim_report, stage_numbers
from secateur.plan import identity_plan
from secateur.sources import Opened, build
from secateur.write.checkpoint import PLAN
from secateur.write.reports import formats, write_report


def run_slimming(opened: Opened, data: Splits, config: SlimConfig, *, title: str, as_json: bool) -> None:
    """Slim a freshly initialised model, write everything, and print the table."""
    plan = opened.plan
    model = opened.model
    if plan.source:
        torch.manual_seed(config.dense.seed)
        model = build(plan.source, plan.source_arguments).model
        plan = identity_plan(model, plan.source, plan.source_arguments)
    run = slim(model, plan, data, config, say)
    written = {stage.name: stage.folder for stage in run.stages}
    written["plan"] = run.stages[-1].folder / PLAN
    written |= {f"report ({suffix})": config.save / f"report.{suffix}" for suffix in ("html", "md", "json")}
    report = slim_report(run, data, title=title, command=command_line(), written=written)
    for suffix in ("html", "md", "json"):
        write_report(report, config.save / f"report.{suffix}")
    verdict = run.result.verdict
    numbers = {stage.name: stage_numbers(stage) for stage in run.stages} | {
        "plan": str(written["plan"]),
        "report": str(config.save / "report.html"),
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
        "near_zero_share": run.near_zero,
        "achieved_ratio": run.result.plan.achieved,
        "notes": list(run.notes),
    }
    emit(numbers, formats["text"](report), as_json=as_json)

"""What `demo` and `slim` share: run, report, tell."""

from secateur.cli.options import command_line, emit, say
from secateur.domains.classification import Splits
from secateur.domains.classification.slimming import SlimConfig, slim
from secateur.domains.classification.summary import shares_removed, slim_report, stage_numbers
from secateur.sources import Opened
from secateur.write.checkpoint import PLAN
from secateur.write.reports import formats, write_report


def run_slimming(opened: Opened, data: Splits, config: SlimConfig, *, title: str, as_json: bool) -> None:
    """Slim a model, write everything, and print the table."""
    run = slim(opened.model, opened.plan, data, config, say)
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
        "achieved_ratio": shares_removed(run)[1],
        "notes": list(run.notes),
    }
    emit(numbers, formats["text"](report), as_json=as_json)

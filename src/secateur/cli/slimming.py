"""What `demo` and `slim` share: run, report, tell."""

from secateur.cli.terminal import Answer, command_line, say
from secateur.reports.formats import formats, write_report
from secateur.slimming import SlimConfig, slim
from secateur.slimming.summary import shares_removed, slim_report, stage_numbers
from secateur.sources import Opened
from secateur.train import Work
from secateur.write.checkpoint import PLAN


def run_slimming(opened: Opened, data: Work, config: SlimConfig, *, title: str) -> Answer:
    """Slim a model, write everything, and show the table."""
    run = slim(opened.model, opened.plan, data.parts, config, say, task=data.task)
    written = {stage.name: stage.folder for stage in run.stages}
    written["plan"] = run.stages[-1].folder / PLAN
    written |= {f"report ({suffix})": config.save / f"report.{suffix}" for suffix in ("html", "md", "json")}
    report = slim_report(run, data.parts, title=title, command=command_line(), written=written)
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
    return Answer(numbers, formats["text"](report))

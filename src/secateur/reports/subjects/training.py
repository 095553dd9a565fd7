"""A training run: its curves, and the model that it kept."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import safe_open

from secateur.reports.content import Report
from secateur.reports.history import training_report
from secateur.reports.subject import Folder, registered
from secateur.train import FitResult
from secateur.train.checkpoint import best_folder, last_folder, read_epoch
from secateur.train.history import EpochRecord
from secateur.write.checkpoint import WEIGHTS
from secateur.write.digests import digests_of

_RECORDS = TypeAdapter(tuple[EpochRecord, ...])


@registered("training")
def of_training(thing: Any) -> Report | None:
    """Losses, figures and scales over the epochs."""
    if isinstance(thing, FitResult):
        return training_report(thing.history, thing.kept_epoch, thing.start)
    history = history_in(thing)
    if not history or "figures" not in history[0]:
        return None
    known = [] if (start := _start_in(thing)) is None else [start]
    first, *_ = (*_RECORDS.validate_python(known), None)
    return training_report(_RECORDS.validate_python(history), _kept_epoch(thing), first)


def history_in(thing: Any) -> list[dict[str, Any]]:
    """The records of the run in a folder, one for each epoch; none if it holds no run."""
    folder = last_folder(thing.path) if isinstance(thing, Folder) else None
    history = [] if folder is None else read_epoch(folder, ())[0].get("history")
    return history if isinstance(history, list) else []


def _start_in(thing: Any) -> Any:
    """The record of what came into the run of a folder; None where it does not count."""
    folder = last_folder(thing.path) if isinstance(thing, Folder) else None
    return None if folder is None else read_epoch(folder, ())[0].get("start")


def _kept_epoch(folder: Folder) -> int | None:
    """The epoch whose weights the saved model has; None if it is not there or of another one."""
    if not (folder.path / WEIGHTS).is_file():
        return None
    for epoch in (last_folder(folder.path), best_folder(folder.path)):
        if epoch is not None and _digests(epoch / WEIGHTS) == _digests(folder.path / WEIGHTS) is not None:
            return int(epoch.name.removeprefix("epoch-"))
    return None


def _digests(path: Path) -> dict[str, str] | None:
    with safe_open(path, framework="pt") as file:
        return digests_of(path, file.metadata() or {})

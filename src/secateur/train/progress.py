"""What a run shows while it goes on: a bar on a terminal, one line per epoch, TensorBoard if asked.

All of it goes to standard error; standard output belongs to results.
"""

from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from secateur.errors import RequestError
from secateur.penalise.sparsity import GAMMA_EDGES
from secateur.rich import (
    BarColumn,
    Console,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from secateur.train.config import FitConfig
from secateur.train.history import EpochRecord

_WORTH_TELLING = 10
"""Seconds to go from which on an epoch's line says how long the rest will take."""


class Reporter:
    """Shows a run; a context manager, because bars and files must be closed.

    Args:
        config: The run's settings: epochs, quiet, log_interval, tensorboard.
        finished: Epochs that are done already.
    """

    def __init__(self, config: FitConfig, finished: int) -> None:
        self._config = config
        self._console = Console(stderr=True, quiet=config.quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = config.quiet or not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task: TaskID | None = None
        self._tensorboard = TensorBoard(config.tensorboard, finished) if config.tensorboard else None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Start a bar over the steps of an epoch."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(f"epoch {epoch}/{self._config.epochs}", total=steps)
        self._epoch, self._steps = epoch, steps

    def advance(self, step: int) -> None:
        """Move the bar after a step; without a terminal, write a line every `log_interval` steps."""
        if self._task is not None:
            self._progress.update(self._task, completed=step + 1)
        interval = self._config.log_interval
        if self._progress.disable and interval and (step + 1) % interval == 0:
            self.line(f"epoch {self._epoch}/{self._config.epochs}  step {step + 1}/{self._steps}")

    def end_epoch(self, record: EpochRecord) -> None:
        """Write the epoch's line, with what is left, and its TensorBoard events."""
        left = (self._config.epochs - record.epoch) * record.seconds
        estimate = f"  about {timedelta(seconds=round(left))} left" if left >= _WORTH_TELLING else ""
        self.line(f"{record}{estimate}")
        if self._tensorboard is not None:
            self._tensorboard.add(record)

    def line(self, text: str) -> None:
        """Write one line, above the bar if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class TensorBoard:
    """Writes the figures of each epoch as TensorBoard events.

    Args:
        folder: Where the event files go.
        finished: Epochs that are done already: events that a killed run wrote after them are hidden.

    Raises:
        RequestError: The optional package is not installed.
    """

    def __init__(self, folder: Path, finished: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            what = "TensorBoard logging was asked for, but tensorboard is not installed"
            raise RequestError(what, do="pip install 'secateur[tensorboard]'") from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=finished + 1)

    def add(self, record: EpochRecord) -> None:
        """Add the events of one epoch, with the epoch as the step."""
        scalars = {
            name: getattr(record, name) for name in ("lr", "penalty", "distillation", "near_zero_share")
        }
        scalars |= {"loss/train": record.train_loss}
        if len(record.losses) > 1:
            scalars |= {f"loss/train {name}": value for name, value in record.losses.items()}
        scalars |= {f"{name}/train": value for name, value in record.watched.items()}
        scalars |= (
            {f"{name}/val": value for name, value in record.figures.values.items()} if record.figures else {}
        )
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, record.epoch)
        if any(record.gammas):
            self._add_histogram(record)
        self._writer.flush()

    def _add_histogram(self, record: EpochRecord) -> None:
        counts, edges = np.array(record.gammas, dtype=float), np.array(GAMMA_EDGES)
        centres = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            "gamma",
            min=edges[0],
            max=edges[-1],
            num=int(counts.sum()),
            sum=float(counts @ centres),
            sum_squares=float(counts @ centres**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=record.epoch,
        )

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

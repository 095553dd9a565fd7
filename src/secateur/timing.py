"""Timing: what a budget of milliseconds is held against, on this machine.

    predicted(widths) = a * sum over calls of their measured times + b

The calls are timed alone, at the widths that a choice asks for, and kept in a file of the user's cache
directory (`$XDG_CACHE_HOME/secateur/latency/`, one for each CPU, version of PyTorch and number of threads),
so that the next run asks the file. Only work counts there (the thread's CPU time, where it can be had), not
what other programs take. A network takes longer than its calls: its Python runs between them, and caches are
colder. The whole model is timed too; what it takes beyond its calls counts half as a factor, half as a
constant, until a cut model has been timed beside it, in turn: from then on a and b are the line through the
two timed models that lie around the target.
Milliseconds of work become those of the wall clock by what the uncut model takes of both.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateur.capture import as_call
from secateur.capture.layouts import is_channels_last
from secateur.capture.shadow import shadow
from secateur.costs.budgeted import Gauge
from secateur.costs.layers import (
    LayerTable,
    clock_of,
    layer_times,
    machine_name,
    table_from_json,
    table_to_json,
)
from secateur.costs.meter import CostMeter
from secateur.costs.stopwatch import latency_in_turn, quiet, synchronise, untouching
from secateur.coupling import Groups
from secateur.errors import RequestError, SecateurError
from secateur.rich import BarColumn, Console, Progress, TextColumn
from secateur.select import Budget
from secateur.settle import Attempt
from secateur.write.atomic import atomic_write

THREADS = 1
"""Threads that a latency is measured with, as by `secateur.latency`."""

_BAR_AFTER_S = 2.0
_OVER, _UNDER = 1.02, 0.95
_DEARER = 3
"""A cut that takes too long is as far off as one that takes this many times too little."""

_ROUNDS = 4
_FEWEST_TURNS, _MOST_TURNS, _ENOUGH_S = 12, 100, 2.0


@dataclass(frozen=True)
class Timed:
    """A cut model beside the uncut one.

    Attributes:
        whole_ms: Median of the uncut model when it was first timed.
        cut_ms: The same for the cut one: its share of the uncut model's work, both timed in turn.
        predicted_ms: What was predicted for the cut one.
        medians_ms: Medians of both by the clock on the wall, in turn; other programs count here.
    """

    whole_ms: float
    cut_ms: float
    predicted_ms: float
    medians_ms: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"predicted {self.predicted_ms:.4g} ms, measured {self.cut_ms:.4g} ms "
            f"({self.predicted_ms / self.cut_ms - 1:+.1%}); the uncut model takes {self.whole_ms:.4g} ms; "
            f"medians by the wall clock: uncut {self.medians_ms[0]:.4g}, cut {self.medians_ms[1]:.4g} ms"
        )


class Timing:
    """Predicts and measures the latency of cuts of one model.

    Args:
        model: The uncut model.
        example_inputs: What it is timed on.

    Attributes:
        whole_ms: Median of the uncut model, by the clock on the wall.

    Raises:
        RequestError: The model has no values to run with.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        if any(tensor.is_meta for tensor in tensors):
            raise RequestError(
                "latency_ms times the model, but it is on the meta device",
                do="load its values first, or ask for macs= or memory=",
            )
        self._model = shadow(model)
        self._inputs = example_inputs
        device = tensors[0].device if tensors else torch.device("cpu")
        self._machine = machine_of(device)
        self._path = cache_folder() / f"{machine_name(self._machine)}.json"
        self._bar = _Bar()
        self._table = LayerTable(
            self._stored(),
            device=device,
            channels_last=any(is_channels_last(tensor) for tensor in tensors),
            on_measure=self._bar.advance,
        )
        self._device = device
        (self._work_ms,) = self._work([self._model])
        self.whole_ms = latency_in_turn([self._model], example_inputs, rounds=3, threads=THREADS)[0].median_ms
        self._raw_whole = 0.0
        self._slope, self._offset = 1.0, 0.0
        self._is_fitted = False
        self._timed: list[tuple[float, float]] = []
        self._left_out: list[str] = []
        self._not_kept = ""

    def gauge(self, groups: Groups) -> Gauge:
        """What predicts the latency of cuts of these groups."""
        with self.running():
            layers, left_out = layer_times(groups, self._table, self.block)
        meter = CostMeter([layer.term for layer in layers], self._join)
        self._raw_whole = float(np.sum([layer.at({}) for layer in layers]))
        if not layers:
            raise RequestError(
                "latency_ms finds no call that can be timed",
                list(map(" ".join, left_out.items())),
                "use macs=",
            )
        if not self._is_fitted:
            beyond = self._work_ms / self._raw_whole
            self._slope = (1 + beyond) / 2 if beyond > 1 else beyond
            self._offset = self._work_ms - self._slope * self._raw_whole
        self._left_out = [f"not timed: {node}, {why}" for node, why in left_out.items()]
        return Gauge(meter, self.block, self.whole_ms)

    def predict(self, groups: Groups) -> float:
        """The milliseconds of another network, as `gauge` predicts: of the uncut one without a block."""
        with self.running():
            layers, _ = layer_times(groups, self._table, self.block)
        return self._join(np.array([layer.at({}) for layer in layers]))

    def time(self, model: nn.Module) -> float:
        """The milliseconds of another network: its share of the uncut model's work, both timed in turn."""
        beside, work = self._work([self._model, shadow(model)])
        return work / beside * self.whole_ms

    @property
    def notes(self) -> list[str]:
        """What else there is to say: calls that cannot be timed, a table that cannot be kept."""
        return [*self._left_out, *filter(None, [self._not_kept])]

    @property
    def block(self) -> int:
        """Channels that kernels of this machine work on at once: floats of a vector register."""
        return 16 if self._machine["capability"].startswith(("AVX512", "AMX")) else 8

    def _join(self, each: NDArray[np.float64]) -> float:
        work = self._slope * float(each.sum()) + self._offset
        return work * self.whole_ms / self._work_ms

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let calls be timed: with one thread and a bar, and write the table afterwards."""
        before, known = torch.get_num_threads(), self._table.measured
        torch.set_num_threads(THREADS)
        try:
            with self._bar:
                yield
        finally:
            torch.set_num_threads(before)
            if self._table.measured > known:
                self._save()

    def measure(self, cut: nn.Module, predicted_ms: float, target_ms: float) -> Timed:
        """Time a cut model and the uncut one in turn, and learn from it.

        Predictions then run through the two timed models around the target, the uncut one if there is none
        nearer above it.
        """
        cut = shadow(cut)
        beside, work = self._work([self._model, cut])
        share = work / beside
        medians = latency_in_turn([self._model, cut], self._inputs, rounds=3, threads=THREADS)
        per_ms = self._work_ms / self.whole_ms
        raw = (predicted_ms * per_ms - self._offset) / self._slope
        self._timed.append((share * self._work_ms, raw))
        self._fit(target_ms * per_ms)
        whole, found = (one.median_ms for one in medians)
        return Timed(self.whole_ms, share * self.whole_ms, predicted_ms, (whole, found))

    def _fit(self, target_work: float) -> None:
        uncut = (self._work_ms, self._raw_whole)
        above = min((one for one in self._timed if one[0] > target_work), default=uncut)
        below = max((one for one in self._timed if one[0] <= target_work), default=self._timed[-1])
        for (high, raw_high), (low, raw_low) in ((above, below), (uncut, self._timed[-1])):
            if raw_high > raw_low and high > low:
                self._slope = (high - low) / (raw_high - raw_low)
                self._offset = low - self._slope * raw_low
                self._is_fitted = True
                return

    def _work(self, models: Sequence[nn.Module]) -> list[float]:
        return work_in_turn(models, self._inputs, self._device)

    def _stored(self) -> dict[str, float]:
        try:
            return table_from_json(self._path.read_bytes(), self._machine)
        except OSError:
            return {}

    def _save(self) -> None:
        """Write the table, with what other runs have written since it was read."""
        try:
            entries = {**self._stored(), **self._table.entries}
            atomic_write(self._path, table_to_json(entries, self._machine))
        except SecateurError as error:
            self._not_kept = f"the table of layer times was not kept: {error.what}"


def work_in_turn(
    models: Sequence[nn.Module], example_inputs: Any, device: torch.device | str = "cpu"
) -> list[float]:
    """The work of one pass of each model in milliseconds, from passes that are made in turn.

    Of the first model it is the median; of the others that times the median of what each takes of the first
    in the same turn: how fast a busy machine is changes from one second to the next, but hardly from one pass
    to the next. On a CPU with one thread it is that thread's CPU time, so that other programs count little.

    Args:
        models: The models; they run in eval mode, which is restored.
        example_inputs: Inputs of all of them.
        device: Where they run.

    Example:
        >>> small, large = nn.Linear(400, 4), nn.Linear(400, 4000)
        >>> one, two = work_in_turn([small, large], torch.zeros(1, 400))
        >>> one < two
        True
    """
    args, kwargs = as_call(example_inputs)
    device = torch.device(device)
    turns: list[list[float]] = []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(quiet(model, THREADS))
            stack.enter_context(untouching(model, args, kwargs))
        stack.enter_context(torch.inference_mode())
        clock = clock_of(device)
        while len(turns) <= _FEWEST_TURNS or (len(turns) <= _MOST_TURNS and np.sum(turns) < _ENOUGH_S):
            turns.append([_pass_s(model, args, kwargs, device, clock) for model in models])
    taken = np.array(turns[1:])  # the first turn warms up
    first = np.median(taken[:, 0])
    return [1000 * float(first * share) for share in np.median(taken / taken[:, :1], axis=0)]


def _pass_s(
    model: nn.Module, args: Any, kwargs: Any, device: torch.device, clock: Callable[[], float]
) -> float:
    synchronise(device)
    begin = clock()
    model(*args, **kwargs)
    synchronise(device)
    return clock() - begin


class Tries:
    """Keeps the cut that comes nearest to a budget of milliseconds, and says when it is near enough.

    A prediction is held against the clock: the cut model is timed, the prediction is mended, and the widths
    are chosen again, a few times at most.

    Args:
        timing: Predicts and measures.
        budget: The milliseconds that may stay.
    """

    def __init__(self, timing: Timing, budget: Budget) -> None:
        self._timing = timing
        self._budget = budget
        self._best: tuple[float, Groups, Attempt] | None = None
        self._tried: list[dict[str, tuple[int, ...]]] = []

    def add(self, groups: Groups, attempt: Attempt) -> tuple[Groups, Attempt] | None:
        """Time a cut.

        Returns:
            The best cut so far if it is near enough or the last; None to choose again.

        Raises:
            RequestError: The smallest model takes longer than the budget.
        """
        account = attempt.plan.account
        assert account is not None, "a budget has an account"
        target = account.wanted
        timed = self._timing.measure(attempt.model, account.reached, target)
        is_smallest, is_over = account.reached > account.wanted, timed.cut_ms > _OVER * target
        if is_smallest and is_over:
            raise self._budget.out_of_reach(target, timed.cut_ms)
        update = {
            "whole": timed.whole_ms,
            "measured": timed.cut_ms,
            "notes": (str(timed), *self._timing.notes),
        }
        plan = attempt.plan.model_copy(update={"account": account.model_copy(update=update)})
        rank = abs(log(timed.cut_ms / target)) * (_DEARER if is_over else 1)
        if self._best is None or rank < self._best[0]:
            self._best = (rank, groups, replace(attempt, plan=plan))
        is_near = not is_over and timed.cut_ms >= _UNDER * target
        seen = plan.keep in self._tried
        self._tried.append(plan.keep)
        if is_near or seen or len(self._tried) == _ROUNDS or target >= timed.whole_ms:
            return self._best[1:]
        return None


def cache_folder() -> Path:
    """Where tables of layer times are kept.

    Example:
        >>> cache_folder().parts[-2:]
        ('secateur', 'latency')
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return root / "secateur" / "latency"


def machine_of(device: torch.device) -> Mapping[str, str]:
    """What layer times depend on, beside the layers.

    Example:
        >>> sorted(machine_of(torch.device("cpu")))
        ['capability', 'processor', 'threads', 'torch']
    """
    if device.type == "cuda":
        processor, capability = torch.cuda.get_device_name(device), "cuda"
    else:
        processor, capability = _cpu_name(), torch.backends.cpu.get_cpu_capability()
    return {
        "processor": processor,
        "capability": capability,
        "torch": torch.__version__,
        "threads": str(THREADS),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = {"vendor_id", "cpu family", "model", "model name", "stepping"}
    found = dict(line.split(":", 1) for line in reversed(lines) if line.split(":")[0].strip() in wanted)
    words = [value.strip() for _, value in sorted(found.items())]
    return " ".join(words) or platform.processor() or platform.machine()


class _Bar:
    """A bar on standard error once timing has taken two seconds; silent where that is no terminal."""

    def __init__(self) -> None:
        self._began = 0.0
        self._count = 0
        self._progress: Progress | None = None

    def __enter__(self) -> None:
        self._began, self._count = time.perf_counter(), 0

    def advance(self, op: str) -> None:
        """Count one more call."""
        self._count += 1
        if self._progress is None and time.perf_counter() - self._began > _BAR_AFTER_S:
            console = Console(file=sys.stderr)
            columns = (TextColumn("timing layers"), BarColumn(), TextColumn("{task.description}"))
            self._progress = Progress(
                *columns, console=console, transient=True, disable=not console.is_terminal
            )
            self._progress.start()
            self._progress.add_task("", total=None)
        if self._progress is not None:
            for task in self._progress.task_ids:
                self._progress.update(task, description=f"{self._count} calls, {op}")

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

"""Turns: models are timed in turn, so that other work on the machine meets all of them alike.

Each round gives every model a few passes, and begins with another model than the one before. What a model
should take is its share of the first one's multiply-accumulates; what it takes beyond is said by operator.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.benching.operators import Growth, growing, operator_times
from secateur.benching.program import Contender, Turn, programs
from secateur.costs import Latency
from secateur.costs.stopwatch import latency_of
from secateur.errors import RequestError, SecateurError
from secateur.pipeline import measure
from secateur.rich import Table
from secateur.tables import printed

_ROUNDS = 5
_LIMIT_S = 10.0
"""Of passes of one model in one program, about."""


@dataclass(frozen=True)
class Bench:
    """Several models, timed in turn.

    Attributes:
        names: The models; the others are compared with the first.
        macs: Multiply-accumulates of one pass of each; None where they are not known.
        times: By program, for each model how long a pass takes, or why it cannot be timed there.
        operators: For each model after the first the operators of PyTorch that do not shrink with it.
    """

    names: tuple[str, ...]
    macs: tuple[int | None, ...]
    times: dict[str, tuple[Latency | str, ...]]
    operators: tuple[tuple[Growth, ...], ...]

    def ideal(self, index: int) -> float | None:
        """What a model should take of the first one's time: its share of the MACs."""
        first, here = self.macs[0], self.macs[index]
        return here / first if first and here is not None else None

    def ratio(self, program: str, index: int) -> float | None:
        """What a model takes of the first one's time."""
        first, here = self.times[program][0], self.times[program][index]
        if isinstance(first, str) or isinstance(here, str):
            return None
        return here.median_ms / first.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {"models": [self._row(index) for index in range(len(self.names))]}

    def _row(self, index: int) -> dict[str, Any]:
        ideal = self.ideal(index)
        cells: dict[str, Any] = {}
        for program, row in self.times.items():
            cell, ratio = row[index], self.ratio(program, index)
            if isinstance(cell, str):
                cells[program] = {"reason": cell}
                continue
            times_ideal = ratio / ideal if ratio is not None and ideal else None
            cells[program] = {**asdict(cell), "ratio": ratio, "times_ideal": times_ideal}
        grown = [asdict(one) for one in self.operators[index - 1]] if index else []
        return {
            "name": self.names[index],
            "macs": self.macs[index],
            "ideal_ratio": ideal,
            "programs": cells,
            "operators_that_grew": grown,
        }

    def table(self) -> Table:
        """The table that `print` shows: MACs, and in each program median, quartiles and ratio."""
        known = [one for row in self.times.values() for one in row if isinstance(one, Latency)]
        basis = [f"batch {one.batch}, {one.threads} threads, {one.device}; x: of the first" for one in known]
        table = Table("model", "MACs", *self.times, title="".join(basis[:1]), title_justify="left")
        for index, name in enumerate(self.names):
            macs, ideal = self.macs[index], self.ideal(index)
            amount = "-" if macs is None else f"{macs:,}"
            if index and ideal is not None:
                amount += f"\nx {ideal:.3f}"
            table.add_row(name, amount, *(self._cell(program, index) for program in self.times))
        return table

    def _cell(self, program: str, index: int) -> str:
        cell, ratio = self.times[program][index], self.ratio(program, index)
        if isinstance(cell, str):
            return cell
        text = f"{cell.median_ms:.3g} ms\n({cell.lower_ms:.3g} to {cell.upper_ms:.3g})"
        return f"{text}\nx {ratio:.3f}" if index and ratio is not None else text

    def __str__(self) -> str:
        lines = [printed(self.table(), width=120)]
        for index in range(1, len(self.names)):
            ideal = self.ideal(index)
            ratios = {program: self.ratio(program, index) for program in self.times}
            far = [f"{ratio / ideal:.2f} in {name}" for name, ratio in ratios.items() if ratio and ideal]
            if far:
                lines.append(f"{self.names[index]} takes so many times the ideal: {', '.join(far)}")
            if self.operators[index - 1]:
                grown = "; ".join(map(str, self.operators[index - 1]))
                lines.append(f"  what does not shrink with it: {grown}")
        return "\n".join(lines)


def bench(
    contenders: Sequence[Contender],
    names: Sequence[str] = ("pytorch",),
    *,
    repeats: int = 30,
    threads: int = 1,
) -> Bench:
    """Time models in turn in several programs, and say how far each is from its ideal, and why.

    Args:
        contenders: The models, the one to compare with first; they are not changed.
        names: The programs: "pytorch", "compile", "onnxruntime", "openvino".
        repeats: Timed passes of each, in five rounds; fewer of what takes long, at least one in a round.
        threads: Threads inside an operator.

    Raises:
        RequestError: There is no such program, or less than three passes or one thread were asked for.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> sizes = (400, 100)
        >>> models = [
        ...     Contender(f"width {size}", torch.zeros(64, 8), Path(), model=torch.nn.Linear(8, size))
        ...     for size in sizes
        ... ]
        >>> found = bench(models, repeats=5)
        >>> found.names, found.ideal(1), found.ratio("pytorch", 1) < 1
        (('width 400', 'width 100'), 0.25, True)
    """
    if repeats < 3 or threads < 1:
        what = f"repeats is {repeats} and threads {threads}"
        raise RequestError(what, ["allowed: 3 or more repeats, 1 or more threads"], "raise them")
    starts = {name: programs[name] for name in names}
    times = {
        name: _timed([_attempt(start, one, threads) for one in contenders], contenders, repeats, threads)
        for name, start in starts.items()
    }
    macs = tuple(None if one.model is None else measure(one.model, one.inputs).macs for one in contenders)
    found = Bench(tuple(one.name for one in contenders), macs, times, ((),) * (len(contenders) - 1))
    first, *others = contenders
    if not others or first.model is None:
        return found
    before = operator_times(first, threads)
    operators = []
    for index, one in enumerate(others, start=1):
        ideal = found.ideal(index)
        here = {} if one.model is None or ideal is None else operator_times(one, threads)
        operators.append(tuple(growing(before, here, ideal)) if here and ideal is not None else ())
    return Bench(found.names, macs, times, tuple(operators))


def _attempt(start: Any, contender: Contender, threads: int) -> Turn | str:
    """A model that is opened in a program, or why it cannot be."""
    try:
        turn: Turn = start(contender, threads)
        turn(1)
    except SecateurError as error:
        return ", ".join([error.what, *error.context[:1]])
    except Exception as error:  # noqa: BLE001 - whatever a compiler or a runtime raises is the reason
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {line.strip()[:160]}"
    return turn


def _timed(
    turns: Sequence[Turn | str], contenders: Sequence[Contender], repeats: int, threads: int
) -> tuple[Latency | str, ...]:
    """Time what could be opened, in rounds."""
    open_turns = {index: turn for index, turn in enumerate(turns) if not isinstance(turn, str)}
    each: dict[int, int] = {}
    for index, turn in open_turns.items():
        affordable = int(1000 * _LIMIT_S / _ROUNDS / max(*turn(2), 1e-3))
        each[index] = max(1, min(-(-repeats // _ROUNDS), affordable))
    times: dict[int, list[float]] = {index: [] for index in open_turns}
    order = list(open_turns)
    for _ in range(_ROUNDS):
        for index in order:
            times[index] += open_turns[index](each[index])
        order = [*order[1:], *order[:1]]
    return tuple(
        turn if isinstance(turn, str) else latency_of(times[index], contenders[index].inputs, threads)
        for index, turn in enumerate(turns)
    )

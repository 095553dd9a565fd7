"""Sweep: prune a network by one strategy to growing percents, evaluate each, and find the cliff.

The cliff is where the score first falls below (1 - tolerance) of the dense network's: between the last
percent that holds and the first that does not. With `refine` the gap between the two is halved so many times.
Every figure is of the pruned network as it is, without fine-tuning: it tells what the strategy removes, and
where fine-tuning starts from.

Rows are written as JSON lines the moment they are known. A run that was stopped goes on where it was.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.prune import DarknetPruned, prune_darknet
from secateur.errors import NoEffectWarning, RequestError
from secateur.reports.charts import Band, Line, Lines, percents
from secateur.reports.section import Section, Values
from secateur.rich import Table
from secateur.tables import printed
from secateur.write.rows import Rows, fingerprint_of

__all__ = ["PERCENTS", "PercentRow", "Sweep", "sweep"]

PERCENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""What is tried if nothing is said."""

Evaluate = Callable[[Darknet], Any]
"""From a network to its score, a number or an `Evaluation` with `map50` and `map`; larger is better."""


@dataclass(frozen=True)
class PercentRow:
    """One percent.

    Attributes:
        percent: What was asked of the strategy; 0 is the dense network.
        score: What `evaluate` said: mAP@0.5, as a rule.
        map: mAP over IoU 0.5 to 0.95, if it said that, too.
        params: Parameters that are left.
        macs: Multiply-accumulates at the cfg's input size.
        limit: The strategy's percent limit: beyond it one threshold would empty a layer; None for blocks.
    """

    percent: float
    score: float
    map: float | None
    params: int
    macs: int
    limit: float | None = None


@dataclass(frozen=True)
class Sweep:
    """A score against the percent pruned.

    Attributes:
        name: The cfg.
        strategy: The strategy.
        rows: By percent; the first is the dense network.
        tolerance: The share of the dense score that may be lost before it counts as a cliff.
        options: Further arguments of `prune_darknet`.
    """

    name: str
    strategy: str
    rows: tuple[PercentRow, ...]
    tolerance: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dense(self) -> PercentRow:
        """The network as it was."""
        return self.rows[0]

    @property
    def cliff(self) -> tuple[PercentRow, PercentRow] | None:
        """The last row that holds and the first that does not; None if all hold."""
        least = (1 - self.tolerance) * self.dense.score
        falls = [index for index, row in enumerate(self.rows) if row.score < least]
        return (self.rows[falls[0] - 1], self.rows[falls[0]]) if falls else None

    @property
    def sentence(self) -> str:
        """Where the cliff is.

        Example:
            >>> rows = [PercentRow(p, s, None, 100, 100) for p, s in ((0, 0.9), (0.3, 0.88), (0.6, 0.2))]
            >>> print(Sweep("net.cfg", "slim", tuple(rows)).sentence)
            slim holds mAP to 30 % (0.880 of 0.900); the cliff is between 30 % and 60 %: 0.880 to 0.200
        """
        if self.cliff is None:
            last = self.rows[-1]
            held = f"{last.score:.3f} of {self.dense.score:.3f}"
            return f"{self.strategy} has no cliff up to {_percent(last.percent)} ({held})"
        before, after = self.cliff
        start, end = _percent(before.percent), _percent(after.percent)
        held = f"{self.strategy} holds mAP to {start} ({before.score:.3f} of {self.dense.score:.3f})"
        return f"{held}; the cliff is between {start} and {end}: {before.score:.3f} to {after.score:.3f}"

    def table(self) -> Table:
        """The rows as `print` shows them."""
        table = Table("percent", "mAP@0.5", "mAP", "parameters", "MACs", "left")
        for row in self.rows:
            table.add_row(
                _percent(row.percent),
                f"{row.score:.4f}",
                "-" if row.map is None else f"{row.map:.4f}",
                f"{row.params:,}",
                f"{row.macs:,}",
                _percent(row.params / self.dense.params),
            )
        return table

    def __str__(self) -> str:
        limits = [row.limit for row in self.rows if row.limit is not None]
        lines = [f"sweep of {self.name}", printed(self.table())]
        if limits:
            lines.append(f"percent limit {_percent(limits[0])}: beyond it a layer would be emptied")
        return "\n".join([*lines, self.sentence])

    def plot(self, path: Path | str) -> Path:
        """Draw the score, and the parameters that are left, against the percent.

        Args:
            path: A `.png` or `.svg` file; it is complete or not there.

        Returns:
            The path.

        Raises:
            RequestError: Another kind of file.
            SecateurError: It cannot be written.
        """
        from secateur.reports.plots import save_chart

        return save_chart(self.chart(), path, f"{self.name}: mAP against percent")

    def chart(self) -> Lines:
        """The score, and the parameters that are left, against the percent."""
        asked = percents([row.percent for row in self.rows])
        left = percents([row.params / self.dense.params for row in self.rows])
        lines = (
            Line("mAP@0.5", asked, percents([row.score for row in self.rows])),
            Line("parameters left", asked, left),
        )
        limit = self.dense.limit
        bands = [] if limit is None else [Band("percent limit", 100 * limit, 100 * limit)]
        if self.cliff is not None:
            start, end = percents([row.percent for row in self.cliff])
            bands.append(Band("cliff", start, end))
        xlabel, caption = f"percent asked of {self.strategy}", "mAP@0.5 and parameters left."
        label = f"Line chart of mAP against percent: {self.sentence}."
        return Lines("percent", label, caption, xlabel, "share (%)", lines, 0, 102, bands=tuple(bands))

    def section(self) -> Section:
        """What a report shows of it."""
        lost = f"A loss of more than {_percent(self.tolerance)} of the dense mAP counts as the cliff."
        paragraphs = (f"{self.sentence[0].upper()}{self.sentence[1:]}.", lost)
        columns = (
            Values("Percent asked", tuple(row.percent for row in self.rows), "share"),
            Values("mAP@0.5", tuple(row.score for row in self.rows), "share"),
            Values("mAP", tuple(row.map for row in self.rows), "share"),
            Values("Parameters", tuple(row.params for row in self.rows), "amount"),
            Values("MACs", tuple(row.macs for row in self.rows), "amount"),
        )
        title = f"Sweep of {self.name} by {self.strategy}"
        return Section("percent-sweep", title, paragraphs, columns, (self.chart(),), place=40)


def sweep(
    model: Darknet,
    evaluate: Evaluate,
    strategy: str = "normal",
    percents: Sequence[float] = PERCENTS,
    *,
    rows: Path | str | None = None,
    tolerance: float = 0.1,
    refine: int = 0,
    on_row: Callable[[PercentRow], None] | None = None,
    **options: Any,
) -> Sweep:
    """Prune to several percents, evaluate each, and find the cliff.

    Args:
        model: The network; not changed.
        evaluate: From a network to its mAP, or to an `Evaluation`.
        strategy: A registered strategy.
        percents: What to try, each 0 <= percent < 1; the dense network (0) is always evaluated.
        rows: A file of JSON lines that grows with every row, and from which a stopped run goes on.
        tolerance: The share of the dense score that may be lost before it counts as a cliff.
        refine: How many times the gap of the cliff is halved.
        on_row: Called with each new row.
        **options: Further arguments of `prune_darknet`, such as merge, floor or data (a list that can be read
            again).

    Returns:
        The rows by percent, with the cliff; it prints well and draws itself.

    Raises:
        RequestError: No percent, or an argument makes no sense.
        CheckpointError: The file of rows is of another network, strategy or options.
    """
    if not percents or not 0 <= tolerance < 1 or refine < 0:
        what = f"{len(percents)} percents, tolerance {tolerance:g}, refine {refine}"
        raise RequestError(what, do="pass at least one percent, 0 <= tolerance < 1 and refine >= 0")
    opening = _opening(model, strategy, options)
    with Rows(None if rows is None else Path(rows), opening, "percent", PercentRow) as known:
        told = {name: value for name, value in options.items() if name != "data"}

        def found() -> Sweep:
            held = (PercentRow(**known.known[percent]) for percent in sorted(known.known))
            return Sweep(model.config.name, strategy, tuple(held), tolerance, told)

        def measure_at(percent: float) -> None:
            percent = round(percent, 4)
            if percent not in known.known:
                row = _row(_pruned(model, strategy, percent, options), evaluate, percent)
                known.add(asdict(row))
                if on_row is not None:
                    on_row(row)

        for percent in sorted({0.0, *percents}):
            measure_at(percent)
        for _ in range(refine):
            edges = found().cliff
            if edges is not None:
                measure_at((edges[0].percent + edges[1].percent) / 2)
        return found()


def _pruned(model: Darknet, strategy: str, percent: float, options: Mapping[str, Any]) -> DarknetPruned:
    with warnings.catch_warnings():  # the row shows that nothing went
        warnings.simplefilter("ignore", NoEffectWarning)
        return prune_darknet(model, strategy, percent=percent, **options)


def _row(pruned: DarknetPruned, evaluate: Evaluate, percent: float) -> PercentRow:
    said = evaluate(pruned.model)
    score, map_ = (said.map50, float(said.map)) if hasattr(said, "map50") else (said, None)
    limit = None if pruned.ceiling is None else pruned.ceiling.percent
    return PercentRow(percent, float(score), map_, pruned.after.params, pruned.after.macs, limit)


def _opening(model: Darknet, strategy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the rows of a file belong to."""
    told = {name: value for name, value in options.items() if name != "data"}
    return {
        "network": model.config.name,
        "fingerprint": fingerprint_of(
            [model.config.text.encode("utf-8", "surrogateescape"), model.state_dict()]
        ),
        "strategy": strategy,
        "options": json.loads(json.dumps({**told, "data": "data" in options}, default=str)),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"

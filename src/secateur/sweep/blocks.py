"""Block degeneracy: zero the last convolution of each residual branch and see what is lost.

A block whose branch can be silenced at little cost does little: what it adds to the stream is degenerate.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.coupling.layers import layer_of
from secateur.coupling.rule import traits_of
from secateur.errors import RequestError
from secateur.graph.node import Graph, Node, Ref
from secateur.graph.trait import Trait
from secateur.reports.charts import Bars, Scale
from secateur.reports.section import Section, Values
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Counts, Forks
from secateur.sweep.rows import fingerprint, shown
from secateur.train.task import Part
from secateur.write.rows import Rows


@dataclass(frozen=True)
class BlockRow:
    """One residual block.

    Attributes:
        block: The module that adds.
        layer: The last layer of its branch, all channels of which are zeroed; the name of its weight where
            the module does more than this one operator.
        figures: How good the model is without the branch, the deciding figure first.
        drop: How much worse that figure is than the one of the model as it is.
    """

    block: str
    layer: str
    figures: dict[str, float]
    drop: float

    @property
    def value(self) -> float:
        """The deciding figure."""
        return next(iter(self.figures.values()))

    @property
    def accuracy(self) -> float:
        """Of a classifier, the share of the images that are classified right."""
        return self.figures["accuracy"]


@dataclass(frozen=True)
class _FileRow(BlockRow):
    """A row of the file, which holds the deciding figure of the model as it is, too."""

    dense: float


@dataclass(frozen=True)
class BlockSweep:
    """What each residual block is worth.

    Attributes:
        value: The deciding figure of the model as it is.
        rows: The blocks, in the order of the network.
        lower_is_better: Of the deciding figure.
    """

    value: float
    rows: tuple[BlockRow, ...]
    lower_is_better: bool = False

    @property
    def accuracy(self) -> float:
        """The deciding figure; of a classifier the share of the images that are classified right."""
        return self.value

    @property
    def figure(self) -> str:
        """What decides."""
        return next(iter(self.rows[0].figures))

    def __str__(self) -> str:
        told = [(row.layer, *shown(row.value, self.value, self.lower_is_better)) for row in self.rows]
        dense, _ = shown(self.value, self.value, self.lower_is_better)
        lines = [f"  {layer}: {value} ({change})" for layer, value, change in told]
        return "\n".join([f"{self.figure} {dense} as it is; with the last layer of a block zeroed:", *lines])

    def plot(self, path: Path | str) -> Path:
        """Draw a bar for each block, into a `.png` or `.svg` file."""
        from secateur.reports.plots import save_chart

        return save_chart(self.chart(), path, f"{self.figure} with the last layer of a block zeroed")

    @property
    def scale(self) -> Scale:
        """How the deciding figure is shown."""
        return Scale.of(self.figure, (self.value, *(row.value for row in self.rows)))

    def chart(self) -> Bars:
        """A bar for each block, and a line at the figure of the model as it is."""
        scale = self.scale
        words, dense = tuple(scale.word(row.value) for row in self.rows), scale.word(self.value)
        ends = ", ".join(f"{row.layer} {word}" for row, word in zip(self.rows, words, strict=True))
        return Bars(
            "blocks",
            label=f"Bar chart of {self.figure} without each block: {ends}.",
            caption=f"{scale.title} with a block's last layer zeroed. Dashed: as it is, {dense}.",
            xlabel=scale.label,
            names=tuple(row.layer for row in self.rows),
            values=scale.on_axis([row.value for row in self.rows]),
            words=words,
            line=scale.on_axis([self.value])[0],
        )

    def section(self) -> Section:
        """What a report shows of it."""
        measure = self.scale.measure
        columns = (
            Values("Block", tuple(row.block for row in self.rows), "code"),
            Values("Layer", tuple(row.layer for row in self.rows), "code"),
            Values(self.scale.title, tuple(row.value for row in self.rows), measure),
            Values("Lost", tuple(row.drop for row in self.rows), measure),
        )
        return Section(
            "block-sweep", "Sweep of the blocks", columns=columns, charts=(self.chart(),), place=42
        )


def branch_ends(graph: Graph) -> list[tuple[str, Node]]:
    """Find the residual branches of a record.

    A residual sum adds two values of one shape that both come from an input of the model; the branch is the
    side with more weights of its own, and the other side, the shortcut, has at most one.

    Returns:
        The module that adds, and the last convolution or linear operator of the branch.
    """
    behind: dict[int, frozenset[int]] = {}
    found: list[tuple[str, Node]] = []
    for node in graph.nodes:
        own = frozenset({node.index}).union(*(behind.get(value, frozenset()) for value in node.reads))
        behind.update(dict.fromkeys(node.makes, own))
        sides = [ref.value for ref in (node.args.get("self"), node.args.get("other")) if isinstance(ref, Ref)]
        if Trait.ADDS not in traits_of(node) or len(sides) != 2 or sides[0] == sides[1]:
            continue
        if graph.values[sides[0]].shape != graph.values[sides[1]].shape:
            continue
        if not graph.from_inputs.issuperset(sides):
            continue
        one, two = (behind.get(value, frozenset()) for value in sides)
        branches = sorted((_layers(graph, one - two), _layers(graph, two - one)), key=len)
        if len(branches[1]) > len(branches[0]) and len(branches[0]) <= 1:
            found.append((node.modules[-1], branches[1][-1]))
    return found


def _layers(graph: Graph, indices: frozenset[int]) -> list[Node]:
    nodes = (graph.nodes[index] for index in sorted(indices))
    return [node for node in nodes if layer_of(graph, node) is not None]


def block_sweep(
    model: nn.Module,
    test: Part,
    *,
    where: str = "removed",
    rows: Path | str | None = None,
    on_row: Callable[[BlockRow], None] | None = None,
    forks: Forks | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> BlockSweep:
    """Zero the last convolution of each residual block in turn, and evaluate.

    Args:
        model: The network; not changed.
        test: The samples that it is judged by.
        where: As for `channel_sweep`.
        rows: A file of JSON lines that grows with every row, and from which a stopped sweep goes on.
        on_row: Called with each new row.
        forks: The model and `test` made ready.
        engine: Who works the blocks off; None does it here. Every engine computes the same numbers.
        **options: Further arguments of `Forks`.

    Raises:
        RequestError: The model has no residual block.
        CheckpointError: The file of rows is of another sweep.
    """
    own = Forks(model, test, **options) if forks is None else forks
    try:
        ends = branch_ends(own.graph)
        if not ends:
            raise RequestError("the model has no residual block", do="pass a model that adds to a stream")
        opening = {"sweep": "blocks", "where": where, **fingerprint(model, test)}
        with Rows(None if rows is None else Path(rows), opening, "layer", _FileRow) as known:
            blocks = [(block, own.find_end(node, where)) for block, node in ends]
            missing = [(block, place) for block, place in blocks if place.layer not in known.known]
            jobs = [Job(place, ((), tuple(range(place.size)))) for _, place in missing]
            halves: dict[int, dict[int, Counts]] = {}
            for number, choice, counted in (engine or LocalEngine()).map(own, jobs):
                half = halves.setdefault(number, {})
                half[choice] = counted
                if len(half) == 2:
                    block, place = missing[number]
                    dense, without = half[0].value, half[1].value
                    drop = without - dense if own.task.lower_is_better else dense - without
                    row = BlockRow(block, place.layer, dict(half[1].figures.values), drop)
                    known.add(asdict(row) | {"dense": dense})
                    if on_row is not None:
                        on_row(row)
    finally:
        if forks is None:
            own.close()
    held = [known.known[place.layer] for _, place in blocks]
    ordered = tuple(BlockRow(row["block"], row["layer"], row["figures"], row["drop"]) for row in held)
    return BlockSweep(held[0]["dense"], ordered, own.task.lower_is_better)

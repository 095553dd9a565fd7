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
from secateur.sweep.draw import draw_bars
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Forks
from secateur.sweep.rows import fingerprint
from secateur.train.classifier import Part
from secateur.write.figures import percent, points
from secateur.write.rows import Rows


@dataclass(frozen=True)
class BlockRow:
    """One residual block.

    Attributes:
        block: The module that adds.
        layer: The last layer of its branch, all channels of which are zeroed; the name of its weight where
            the module does more than this one operator.
        accuracy: The share of the images that are classified right without the branch.
        drop: What of the accuracy of the model is lost.
    """

    block: str
    layer: str
    accuracy: float
    drop: float


@dataclass(frozen=True)
class BlockSweep:
    """What each residual block is worth.

    Attributes:
        accuracy: That of the model as it is.
        rows: The blocks, in the order of the network.
    """

    accuracy: float
    rows: tuple[BlockRow, ...]

    def __str__(self) -> str:
        lines = [
            f"  {row.layer}: {percent(row.accuracy)} ({points(self.accuracy, row.accuracy)})"
            for row in self.rows
        ]
        return "\n".join(
            [f"{percent(self.accuracy)} as it is; with the last layer of a block zeroed:", *lines]
        )

    def plot(self, path: Path | str) -> Path:
        """Draw a bar for each block, into a `.png` or `.svg` file."""
        shares = {row.layer: row.accuracy for row in self.rows}
        return draw_bars(path, shares, self.accuracy, "accuracy with the last layer of a block zeroed")


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
        model: The classifier; not changed.
        test: The images that are classified.
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
        known = Rows(
            None if rows is None else Path(rows),
            {"sweep": "blocks", "where": where, **fingerprint(model, test)},
            "layer",
        )
        blocks = [(block, own.find_end(node, where)) for block, node in ends]
        missing = [(block, place) for block, place in blocks if place.layer not in known.known]
        jobs = [Job(place, ((), tuple(range(place.size)))) for _, place in missing]
        halves: dict[int, dict[int, float]] = {}
        for number, choice, counted in (engine or LocalEngine()).map(own, jobs):
            half = halves.setdefault(number, {})
            half[choice] = counted.accuracy
            if len(half) == 2:
                block, place = missing[number]
                row = BlockRow(block, place.layer, half[1], half[0] - half[1])
                known.add(asdict(row) | {"dense": half[0]})
                if on_row is not None:
                    on_row(row)
    finally:
        if forks is None:
            own.close()
    held = [known.known[place.layer] for _, place in blocks]
    ordered = tuple(BlockRow(row["block"], row["layer"], row["accuracy"], row["drop"]) for row in held)
    return BlockSweep(held[0]["dense"], ordered)

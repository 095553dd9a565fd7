"""The proof that a folded model computes what the model with its norms does.

By shape: the record of the folded model is the original's without the calls of the norms. By number, in
float64 with random parameters and statistics, then with the model's own: what a folded layer makes is what
the norm behind the original layer made, and every other operator's results are the same. And its real
tensors are, bit by bit, what the same surgery makes of the original's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.capture.copies import copy_module
from secateur.capture.foreign import memory_of
from secateur.coupling import Groups, Recorded
from secateur.folding.pairs import NormPair, find_pairs
from secateur.folding.surgery import without_norms
from secateur.graph.keep import Kept
from secateur.graph.node import Graph
from secateur.proof import Deviation, Proof, Reference, Verdict, compare_records
from secateur.proof.draws import run
from secateur.proof.passes import Pass


@dataclass(frozen=True)
class Surgery:
    """What makes a folded model of any with the same names; takes a plan's place in a proof."""

    pairs: tuple[NormPair, ...]

    def apply(self, model: nn.Module) -> nn.Module:
        """Fold the norms of a copy of a model."""
        return without_norms(model, self.pairs)

    def renamed(self, name: str) -> str:
        """The name that a tensor has in the folded model."""
        return name


@dataclass(frozen=True, eq=False)
class Setting:
    """The original on inputs of one size.

    Attributes:
        recorded: The original with its record.
        groups: The dims of the values in it.
        pairs: By name of the norm.
        reasons: Of the norms that stay.
    """

    recorded: Recorded
    groups: Groups
    pairs: dict[str, NormPair]
    reasons: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any, substrate: str) -> "Setting":
        """Record a model and find what can be folded.

        Raises:
            CaptureError: The model does not run on these inputs.
        """
        recorded = Recorded.of(model, example_inputs, substrate)
        return cls(recorded, recorded.couple(), *find_pairs(model, recorded.graph))

    def compare(self, folded: nn.Module, names: Iterable[str]) -> Deviation | None:
        """Compare the record of a folded model with the original's; None if it is as it must be."""
        gone = {self.pairs[name].at[1] for name in names}
        graph = self.groups.graph
        rest = replace(graph, nodes=tuple(node for node in graph.nodes if node.index not in gone))
        found, failure = self.recorded.record(folded)
        deviation = compare_records(replace(self.groups, graph=rest), Kept({}), found, failure)
        return deviation or self._without_bias(found, names)

    def _without_bias(self, folded: Graph, names: Iterable[str]) -> Deviation | None:
        """The first layer whose code does not read the bias that it was given."""
        for name in names:
            pair = self.pairs[name]
            if pair.bias not in folded.tensors or not folded.readers[folded.tensors[pair.bias]]:
                node = self.groups.graph.nodes[pair.at[0]]
                return Deviation(node, f"the code of {pair.layer} takes no bias", ())
        return None

    def verify(self, folded: nn.Module, names: Sequence[str], seed: int) -> Verdict:
        """Prove a folded model by numbers."""
        pairs = tuple(self.pairs[name] for name in names)
        script = _script(self.groups.graph, pairs)
        reference = Reference(self.groups, Kept({}), script, run, foreign=memory_of(self.recorded.model))
        proof = FoldingProof(self.recorded.model, Surgery(pairs), reference, self.recorded.inputs, seed)
        order = [node.index for node in script.nodes]
        proof.in_turn = proof.in_turn or order != sorted(order)
        return proof.verdict(folded)


class FoldingProof(Proof):
    """The proof of one surgery: with random numbers, and with those that the model holds."""

    def each_pass(self, cut: nn.Module, *, is_same: bool) -> Iterator[Pass]:
        """Make the passes of every proof, and one on the model's own numbers, folded in float64."""
        yield from super().each_pass(cut, is_same=is_same)
        yield self._pass(partial(copy_module, self.model), self.seed)

    def wrong_tensors(self, cut: nn.Module) -> tuple[list[str], bool]:
        """The tensors of a folded model that are not what the surgery makes of the original's, bit by bit."""
        made, held = self.plan.apply(self.model).state_dict(), cut.state_dict()
        wrong = [name for name in made if name not in held or not _is_same(made[name], held[name])]
        return [*wrong, *(name for name in held if name not in made)], True


def _is_same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one, two)


def _script(graph: Graph, pairs: Sequence[NormPair]) -> Graph:
    """The record that a folded model follows: a layer stands for its norm, and makes what that made."""
    norms = {pair.at[0]: graph.nodes[pair.at[1]] for pair in pairs}
    gone = {pair.at[1] for pair in pairs}
    nodes = tuple(
        replace(node, index=norms[node.index].index, outputs=norms[node.index].outputs)
        if node.index in norms
        else node
        for node in graph.nodes
        if node.index not in gone
    )
    return replace(graph, nodes=nodes)

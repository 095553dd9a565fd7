"""What a cut reaches: the values that are no longer what they were, even at the positions that stay."""

from collections.abc import Collection

from secateur.coupling.layers import layer_of
from secateur.graph.axes import Axis, leaves
from secateur.recovery.step import Subject


def reached_values(subject: Subject, renewed: Collection[int] = ()) -> set[int]:
    """The values that are not what they were, even at kept positions: something before them lost an input.

    Args:
        subject: The models.
        renewed: Calls whose statistics change.
    """
    findings = subject.groups.findings
    changed = subject.kept.changed.keys()
    summed = _summed(subject)
    reached: set[int] = set()
    for node in subject.groups.graph.nodes:
        read = {
            leaf for value in node.reads for dim in findings.dims[value] for leaf in leaves(dim)
        } & changed
        left = {leaf for value in node.makes for dim in findings.dims[value] for leaf in leaves(dim)}
        statistics = {leaf for dim in findings.renormalised.get(node.index, ()) for leaf in leaves(dim)}
        # What is summed over is lost even where the output lies on the same axis, as in x + norm(conv(x)).
        lost = read - left | (statistics | summed.get(node.index, frozenset())) & changed
        if lost or node.index in renewed or reached.intersection(node.reads):
            reached.update(node.makes)
    return reached


def _summed(subject: Subject) -> dict[int, frozenset[Axis]]:
    """The axes that each node sums over."""
    graph, findings = subject.groups.graph, subject.groups.findings
    summed = dict(subject.groups.summed)
    for node in graph.nodes:
        layer = layer_of(graph, node)
        # The groups of a transposed convolution return, so its equation calls no input dim a sum.
        if layer is not None and layer.is_transposed and node.args["groups"] == 1:
            channels = frozenset(leaves(findings.dims[layer.input][layer.channels_at]))
            summed[node.index] = summed.get(node.index, frozenset()) | channels
    return summed

"""Parts that only run in training: auxiliary heads, seen by no record of the eval mode.

They are not cut, so what they read may not be cut either: the model must still train. Their inputs are found
by solving a record of the training mode and looking for axes that such a tensor shares with one that the
eval mode uses.
"""

from secateur.coupling.groups import Groups
from secateur.coupling.solve import solve
from secateur.graph.axes import leaves
from secateur.graph.node import Graph


def used_parameters(graph: Graph) -> set[str]:
    """Names of the parameters that a record's operators read."""
    return {
        name
        for name, value in graph.tensors.items()
        if graph.readers[value] and graph.values[value].kind == "parameter"
    }


def has_unused_parameters(graph: Graph) -> bool:
    """Whether some parameter is read by no operator of a record."""
    rest = graph.tensors.keys() - used_parameters(graph)
    return any(graph.values[graph.tensors[name]].kind == "parameter" for name in rest)


def read_in_training_only(groups: Groups, trained: Graph) -> dict[str, str]:
    """Find the groups that training-only parts read.

    Args:
        groups: The groups of the eval mode.
        trained: A record of the training mode, possibly partial.

    Returns:
        A reason by group name.
    """
    used = used_parameters(groups.graph)
    findings = solve(trained)
    readers = {
        leaf: name
        for name in sorted(used_parameters(trained) - used)
        for dim in findings.dims[trained.tensors[name]]
        for leaf in leaves(dim)
    }
    reasons: dict[str, str] = {}
    for name in used & trained.tensors.keys():
        for ours, theirs in zip(groups.dims(name), findings.dims[trained.tensors[name]], strict=True):
            reader = next((readers[leaf] for leaf in leaves(theirs) if leaf in readers), None)
            if reader is None:
                continue
            for leaf in leaves(ours):
                if leaf in groups.name_of:
                    reasons[groups.name_of[leaf]] = f"read by {reader}, which only runs in training"
    return reasons

"""Rows of a report from what the library computes with: groups, plans, verdicts, histories."""

from collections.abc import Iterable, Mapping, Sequence

from secateur.costs import Cost
from secateur.coupling import Groups
from secateur.coupling.layers import layer_of
from secateur.graph.keep import count, size_of
from secateur.graph.node import Ref
from secateur.penalise.sparsity import GAMMA_EDGES
from secateur.plans.plan import Plan
from secateur.proof import Verdict
from secateur.reports.content import Curve, GammaHistory, GroupRow, LayerRow, ModelRow, VerdictRow
from secateur.train.history import EpochRecord


def model_row(name: str, cost: Cost) -> ModelRow:
    """A model of which only the cost is known."""
    return ModelRow(name, None, cost.params, cost.macs, cost.size_bytes, None, memory_bytes=cost.memory_bytes)


def channels_left(sizes: Mapping[str, int], plans: Iterable[Plan]) -> dict[str, int]:
    """How many channels of each group are left after several plans.

    A plan names the groups of the network that it cuts, and a group that a plan brought down to one channel
    is missing in those of later ones.

    Args:
        sizes: The groups of the network that came in, with their channels.
        plans: The plans that follow each other, the first one first.
    """
    kept: dict[str, int] = {}
    for plan in plans:
        for group in plan.groups:
            if group.size == kept.get(group.name, sizes.get(group.name)):
                kept[group.name] = len(group.keep)
    return kept


def layer_rows(groups: Groups, kept: Mapping[str, int]) -> tuple[LayerRow, ...]:
    """Channels, parameters and MACs of each layer that multiplies, before and after.

    Args:
        groups: The groups of the original.
        kept: How many channels of them are left, by name.
    """
    rows: list[LayerRow] = []
    graph, findings = groups.graph, groups.findings
    left = {groups[name].axis: channels for name, channels in kept.items()}
    for node in graph.nodes:
        weight = node.args.get("weight")
        if node.index not in findings.macs or not isinstance(weight, Ref) or weight.value not in graph.names:
            continue
        tensors = [
            findings.dims[ref.value]
            for ref in (weight, node.args.get("bias"))
            if isinstance(ref, Ref) and ref.value in graph.names
        ]
        layer = layer_of(graph, node)
        channels = findings.dims[node.makes[0]][1 if layer is None else layer.channels_at]
        name = graph.names[weight.value][0].rpartition(".")[0]
        rows.append(
            LayerRow(
                name=name,
                kind=graph.module_types.get(name, ("parameter",))[0],
                channels_before=channels.size,
                channels_after=count(channels, left),
                params_before=sum(size_of(dims, {}) for dims in tensors),
                params_after=sum(size_of(dims, left) for dims in tensors),
                macs_before=sum(size_of(dims, {}) for dims in findings.macs[node.index]),
                macs_after=sum(size_of(dims, left) for dims in findings.macs[node.index]),
            )
        )
    return tuple(rows)


def group_rows(groups: Groups, kept: Mapping[str, int], reasons: Mapping[str, str]) -> tuple[GroupRow, ...]:
    """What became of each group, and why some were left alone."""
    rows: list[GroupRow] = []
    for group in groups:
        if group.name in kept:
            rows.append(_cut_row(group.name, group.size, kept[group.name]))
        else:
            reason = reasons.get(group.name, group.reason or "")
            rows.append(GroupRow(group.name, group.size, group.size, "protected", reason))
    return tuple(rows)


def plan_rows(plans: Sequence[Plan]) -> tuple[GroupRow, ...]:
    """What plans that follow each other say of the groups that they cut."""
    sizes: dict[str, int] = {}
    for plan in plans:
        sizes = {group.name: group.size for group in plan.groups} | sizes
    return tuple(_cut_row(name, sizes[name], kept) for name, kept in channels_left(sizes, plans).items())


def _cut_row(name: str, size: int, kept: int) -> GroupRow:
    return GroupRow(name, size, kept, "pruned" if kept < size else "kept")


def curve(name: str, history: Sequence[EpochRecord]) -> Curve:
    """The course of one training."""
    return Curve(
        label=name,
        epochs=tuple(record.epoch for record in history),
        train_loss=tuple(record.train_loss for record in history),
        train_accuracy=tuple(r.watched["accuracy"] for r in history if "accuracy" in r.watched),
        val_accuracy=tuple(record.validated.deciding for record in history),
        near_zero_share=tuple(record.near_zero_share for record in history) if name == "sparse" else None,
    )


def gamma_history(histories: Iterable[Sequence[EpochRecord]]) -> GammaHistory | None:
    """The histogram of batch-norm scales over the epochs of the first of some sparse trainings."""
    for history in histories:
        return GammaHistory(GAMMA_EDGES, tuple(record.gammas for record in history))
    return None


def verdict_row(verdict: Verdict | None) -> VerdictRow | None:
    """The proof."""
    if verdict is None:
        return None
    return VerdictRow(verdict.status, verdict.relative_error, verdict.nodes, str(verdict))

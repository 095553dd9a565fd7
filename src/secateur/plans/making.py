"""Plans are made: of a choice of kept positions, and of nothing for an uncut model."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.architecture import fingerprint, tensor_shapes, tied_names, unsaved_names
from secateur.asking.request import Request
from secateur.coupling import Groups
from secateur.cut import attributes_of
from secateur.graph.axes import Axis, Expr, Product, leaves, resolve
from secateur.plans.parts import Account, Factors, PlanGroup, Spec, Terms, Why
from secateur.plans.plan import Plan


def make_plan(
    model: nn.Module,
    groups: Groups,
    keep: Mapping[str, Sequence[int]],
    *,
    requested: Request = Request(),  # noqa: B008 - it is frozen
    reasons: Mapping[str, str] | None = None,
    why: Mapping[str, Why] | None = None,
    account: Account | None = None,
) -> Plan:
    """Write down a choice of kept positions so that it can be applied without the groups.

    Args:
        model: The uncut model.
        groups: Its groups.
        keep: Indices to keep by group; groups not named stay whole.
        requested: What was asked for.
        reasons: Why other groups were left alone.
        why: Why each group has its width.
        account: How the budget was met.
    """
    cut = {name for name, indices in keep.items() if len(indices) < groups[name].size}
    axes = {groups[name].axis: name for name in cut}
    tensors = {
        name: tuple(_spec(dim, axes) for dim in groups.dims(name))
        for name in groups.graph.tensors
        if any(leaf in axes for dim in groups.dims(name) for leaf in leaves(dim))
    }
    attributes: dict[str, dict[str, Spec | tuple[Spec, ...]]] = {}
    for module, sizes in attributes_of(groups.graph, groups.findings).items():
        for attribute, expr in sizes.items():
            exprs = expr if isinstance(expr, tuple) else (expr,)
            if any(leaf in axes for part in exprs for leaf in leaves(part)):
                specs = tuple(_spec(part, axes) for part in exprs)
                attributes.setdefault(module, {})[attribute] = specs if isinstance(expr, tuple) else specs[0]
    sizes_before = sum(groups[name].size for name in keep)
    kept = sum(len(indices) for indices in keep.values())
    return Plan(
        **_of_architecture(model),
        groups=tuple(
            PlanGroup(
                name=name,
                size=groups[name].size,
                keep=tuple(sorted(int(index) for index in indices)),
                members=tuple(map(str, groups[name].members)),
                why=(why or {}).get(name),
            )
            for name, indices in keep.items()
        ),
        tensors=tensors,
        attributes=attributes,
        requested=requested,
        achieved=1 - kept / sizes_before if sizes_before else 0.0,
        reasons=dict(reasons or {}),
        account=account,
    )


def identity_plan(
    model: nn.Module, source: str, source_arguments: Mapping[str, str | int | float | bool]
) -> Plan:
    """The plan of an uncut model: nothing is removed."""
    return Plan(
        **_of_architecture(model),
        groups=(),
        tensors={},
        attributes={},
        requested=Request(kind="nothing"),
        source=source,
        source_arguments=dict(source_arguments),
    )


def _of_architecture(model: nn.Module) -> dict[str, Any]:
    """What a plan says of the architecture that it is for."""
    shapes = tensor_shapes(model)
    return {
        "model": type(model).__name__,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "fingerprint": fingerprint(shapes),
        "shapes": shapes,
        "ties": tied_names(model),
        "unsaved": unsaved_names(model),
    }


def _spec(expr: Expr, axes: Mapping[Axis, str]) -> Spec:
    expr = resolve(expr)
    if not any(leaf in axes for leaf in leaves(expr)):
        return expr.size
    if isinstance(expr, Axis):
        return axes[expr]
    parts = expr.factors if isinstance(expr, Product) else expr.terms
    specs = tuple(_spec(part, axes) for part in parts)
    return Factors(product=specs) if isinstance(expr, Product) else Terms(sum=specs)

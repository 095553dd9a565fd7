"""Where free axes multiply, such as heads and their width, a choice says which of them may be cut."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from secateur.coupling.call import Findings
from secateur.coupling.rule import traits_of
from secateur.graph.axes import Axis, Expr, Product, Sum, leaves, protect, resolve
from secateur.graph.node import Graph, Ref
from secateur.graph.trait import Trait
from secateur.registry import Registry

AxesChoice: TypeAlias = Callable[[Sequence[Expr], Sequence[Expr]], Sequence[Expr]]
"""From the free factors of a product, the outer ones first, and those of them that are not coarse, to those
that may be cut."""

axes_choices: Registry[AxesChoice] = Registry("axes")
axes_choices.add("heads", lambda free, fine: (fine or free)[:1])
axes_choices.add("widths", lambda free, fine: free[-1:])
axes_choices.add("both", lambda free, fine: free)


def choose_factors(graph: Graph, findings: Findings, axes: str) -> None:
    """Protect the factors that are not chosen of every product in which several are free.

    The groups of a convolution are coarse if they are fewer than the channels in each, two of 32 say: half of
    two groups is one.

    Args:
        graph: The record.
        findings: What coupling found; axes get their reasons here.
        axes: Which factors may be cut, a registered name.

    Raises:
        RequestError: There is no such choice.
    """
    choose = axes_choices[axes]
    coarse = _coarse(graph, findings)
    for product in _products(graph, findings):
        free = _free(product)
        if len(free) < 2:
            continue
        chosen = choose(free, [part for part in free if not coarse.issuperset(leaves(part))])
        held = {leaf for part in chosen for leaf in leaves(part)}
        for other in free:
            if not held.issuperset(leaves(other)):
                why = "inside its blocks: their" if other is free[0] else "by whole blocks: its outer"
                protect(other, f"cut {why} axis {chosen[0]!r} is free")


def _products(graph: Graph, findings: Findings) -> Iterator[Product]:
    """The products in the dims of stored tensors, outer ones before what they hold."""
    for value in graph.names:
        for dim in findings.dims[value]:
            stack: list[Expr] = [resolve(dim)]
            while stack:
                top = stack.pop()
                if isinstance(top, Product):
                    yield top
                if isinstance(top, (Product, Sum)):
                    stack.extend(reversed(top.factors if isinstance(top, Product) else top.terms))


def _free(product: Product) -> list[Expr]:
    return [part for part in product.factors if any(leaf.reason is None for leaf in leaves(part))]


def _coarse(graph: Graph, findings: Findings) -> set[Axis]:
    """Axes of convolution groups that are shorter than another free factor of every product they are in."""
    groups = set(_conv_groups(graph, findings))
    rivals: dict[Axis, list[int]] = {leaf: [] for leaf in groups}
    for product in _products(graph, findings) if groups else ():
        free = _free(product)
        for part in free if len(free) > 1 else ():
            if isinstance(part, Axis) and part in groups:
                rivals[part].append(max(other.size for other in free if other is not part))
    return {leaf for leaf, sizes in rivals.items() if sizes and leaf.size < min(sizes)}


def _conv_groups(graph: Graph, findings: Findings) -> Iterator[Axis]:
    for node in graph.nodes:
        weight, groups = node.args.get("weight"), node.args.get("groups", 1)
        if Trait.LAYER not in traits_of(node) or not isinstance(weight, Ref) or groups == 1:
            continue
        for dim in findings.dims[weight.value][:2]:
            made = resolve(dim)
            outer = made.factors[0] if isinstance(made, Product) and made.factors else None
            if isinstance(outer, Axis) and outer.size == groups:
                yield outer

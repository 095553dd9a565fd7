"""Where two free axes multiply, such as heads and their width, one of them is chosen to be cut."""

from collections.abc import Iterator

from secateur.coupling.call import Findings
from secateur.coupling.rule import traits_of
from secateur.graph.axes import Axis, Expr, Product, Sum, leaves, protect, resolve
from secateur.graph.node import Graph, Ref
from secateur.graph.trait import Trait


def choose_one_factor(graph: Graph, findings: Findings, *, cut_outer: bool) -> None:
    """Protect all factors but one of every product in which several are free.

    The outer axis is chosen (whole heads, whole groups) or the inner one (their widths). The groups of a
    convolution are an exception: if they are fewer than the channels in each, two of 32 say, the channels are
    cut, as half of two groups is one.

    Args:
        graph: The record.
        findings: What coupling found; axes get their reasons here.
        cut_outer: Choose the outer axis, else the inner one.
    """
    coarse = _coarse(graph, findings) if cut_outer else set()
    for product in _products(graph, findings):
        free = _free(product)
        if len(free) < 2:
            continue
        fine = [part for part in free if not coarse.issuperset(leaves(part))] or free
        chosen = fine[0] if cut_outer else fine[-1]
        held = set(leaves(chosen))
        for other in free:
            if not held.issuperset(leaves(other)):
                inside = other is free[0]
                why = "inside its blocks: their" if inside else "by whole blocks: its outer"
                protect(other, f"cut {why} axis {chosen!r} is free")


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

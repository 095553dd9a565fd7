"""Solve a recorded graph: apply each node's rule, then gather the dims that share an axis."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import gcd, lcm, prod

from secateur.coupling.call import Call, Findings
from secateur.coupling.factors import choose_factors
from secateur.coupling.groups import Group, Groups, Member
from secateur.coupling.protect import protect_by_name
from secateur.coupling.rule import rule_of, traits_of
from secateur.coupling.rules.elementwise import pointwise
from secateur.graph.axes import Axis, Expr, MisalignedError, Product, Sum, axis, leaves, protect, resolve
from secateur.graph.node import Graph, Node
from secateur.graph.trait import Trait

STRICT = "SECATEUR_STRICT"
"""The environment variable that makes a bug in a rule an error; the tests set it."""


def couple_graph(
    graph: Graph,
    protected: Sequence[str] = (),
    vetoes: Mapping[str, str] | None = None,
    axes: str = "heads",
) -> Groups:
    """Find which dims share an axis.

    Args:
        graph: The record.
        protected: Patterns of module or parameter names whose tensors must keep their shapes.
        vetoes: Groups that may not be cut, by name, with the reason.
        axes: What is cut where two free axes multiply, a name of `secateur.coupling.factors`.

    Returns:
        The groups, protected ones included, each with its reason.

    Raises:
        RequestError: A pattern fits no module and no parameter, or there are no such axes.
    """
    findings = solve(graph)
    protect_by_name(graph, findings, protected)
    for index in graph.outputs:
        for dim in findings.dims[index]:
            protect(dim, "model output")
    _protect_unused(graph, findings)
    _protect_unread(graph, findings)
    members = _members(graph, findings)
    names = _names(members)
    for leaf, name in names.items():
        if vetoes and name in vetoes:
            protect(leaf, vetoes[name])
    choose_factors(graph, findings, axes)
    ties = _ties(findings, members)
    multiples = multiples_of(findings.multiples)
    groups = tuple(
        Group(name, leaf, tuple(members[leaf]), leaf.reason, leaf.renormalised, multiples.get(leaf, 1))
        for leaf, name in names.items()
    )
    named_ties = tuple((tuple(sorted(names[leaf] for leaf in axes)), reason) for axes, reason in ties)
    return Groups(graph, findings, groups, named_ties)


def solve(graph: Graph) -> Findings:
    """Apply every node's rule; the dims of the outputs stay as free as the operators leave them.

    Args:
        graph: The record.
    """
    findings = Findings()
    for index, value in enumerate(graph.values):
        if value.kind != "node":
            reason = {"input": "model input", "constant": "a constant tensor"}.get(value.kind)
            findings.dims[index] = [axis(size, reason) for size in value.shape]
    for node in graph.nodes:
        _apply(graph, node, findings)
    return findings


def _apply(graph: Graph, node: Node, findings: Findings) -> None:
    call = Call(graph, node, findings)
    rule = rule_of(node.op)
    try:
        if rule is not None:
            results = rule.apply(call)
        elif node.is_pointwise:
            results = pointwise(call)
        else:
            results = call.barrier(f"no rule covers {node.op} (secateur.operators.rule declares one)")
        dims: list[list[Expr]] = [result if isinstance(result, list) else [result] for result in results]
        sizes = [tuple(dim.size for dim in result) for result in dims]
        if sizes != call.out_shapes():
            raise ValueError(f"it predicts {sizes}, the call made {call.out_shapes()}")
        _equate_written(call, dims)
    except (ValueError, MisalignedError) as error:
        dims = call.barrier(f"the rule of {node.op} does not fit this call: {error}")
    except Exception as error:
        if os.environ.get(STRICT, "0") not in ("", "0"):
            error.add_note(f"in the rule of {node}")
            raise
        dims = call.barrier(f"a bug in the rule of {node.op}, {type(error).__name__}: {error}")
    for ref, result in zip(node.outputs, dims, strict=True):
        if ref is not None:
            findings.dims[ref.value] = result


def _equate_written(call: Call, dims: list[list[Expr]]) -> None:
    """A result that is written into a given tensor has its dims: `torch.mm(a, b, out=c[:, :3])`."""
    if "out" in call and tuple(dim.size for dim in call["out"]) == call.out_shape():
        for held, made in zip(call["out"], dims[0], strict=True):
            call.equate(held, made)


def _protect_unread(graph: Graph, findings: Findings) -> None:
    """Protect a table of which a model takes as much as its input is long.

    An axis is read where an operator computes with it and does not return it. What is only ever left behind,
    by a slice or a split, however the table was turned, computed or joined before, waits for longer inputs,
    and what is taken now is a part of it: always in what no input takes part in, and in activations where as
    much is taken as the input is long. Channels that are left behind of channels may go: no input reads them.
    """
    held = _Held(findings)
    given = held.by(graph.inputs)
    waiting: list[tuple[Node, set[Axis], set[Axis]]] = []
    read: set[Axis] = set()
    for node in graph.nodes:
        if traits_of(node) & (Trait.MOVES | Trait.REPEATS):
            waiting.extend((node, *parts) for parts in _left_behind(graph, held, node, given))
        elif node.index not in graph.unused:
            read |= held.by(node.reads) - held.by(node.makes)
    for node, taken, left in waiting:
        for leaf in taken | left if left - read else ():
            if leaf.reason is None:
                protect(leaf, f"not read for this input, others may read it: {node}")


def _left_behind(
    graph: Graph, axes: "_Held", node: Node, given: set[Axis]
) -> Iterator[tuple[set[Axis], set[Axis]]]:
    """What a call takes of each dim of a table, and what it leaves and might take for other inputs."""
    used = [value for value in node.makes if graph.readers[value] or value in graph.outputs]
    handed_on = axes.by(used)
    for value in node.reads:
        for held in axes.of(value):
            taken, left = held & handed_on, held - handed_on
            if left and (value not in graph.from_inputs or (taken and taken <= given)):
                yield taken, left


class _Held:
    """The axes that values hold, each found once; nothing is bound meanwhile."""

    def __init__(self, findings: Findings) -> None:
        self.dims = findings.dims
        self.known: dict[int, list[set[Axis]]] = {}

    def of(self, value: int) -> list[set[Axis]]:
        """Dim by dim."""
        found = self.known.get(value)
        if found is None:
            found = self.known[value] = [set(leaves(dim)) for dim in self.dims[value]]
        return found

    def by(self, values: Iterable[int]) -> set[Axis]:
        """All together."""
        return {leaf for value in values for held in self.of(value) for leaf in held}


def _protect_unused(graph: Graph, findings: Findings) -> None:
    """Leave tensors whole that nothing reads, or only calls whose results nobody sees.

    The dims that those calls share with what is used go with it, as of a norm whose result is thrown away.
    """
    used = [node for node in graph.nodes if node.index not in graph.unused] if graph.unused else []
    shared = _Held(findings).by({value for node in used for value in (*node.reads, *node.makes)})
    for value in graph.names:
        readers = graph.readers[value]
        if all(node.index in graph.unused for node in readers):
            for dim in findings.dims[value]:
                if not readers or shared.isdisjoint(leaves(dim)):
                    protect(dim, "not used in the forward pass")


def _ties(findings: Findings, members: Mapping[Axis, list[Member]]) -> list[tuple[set[Axis], str]]:
    """Turn dims that must keep equal counts into axes that must; what cannot be tied is protected."""
    ties: list[tuple[set[Axis], str]] = []
    for exprs, reason in findings.balanced:
        tied: set[Axis] = set()
        if not _tie([resolve(expr) for expr in exprs], tied) or any(
            leaf.reason or leaf not in members for leaf in tied
        ):
            for expr in exprs:
                protect(expr, reason)
            continue
        if len(tied) > 1:
            for other in [tie for tie in ties if tie[0] & tied]:
                ties.remove(other)
                tied |= other[0]
            ties.append((tied, reason))
    return [tie for tie in ties if not _spoiled(tie)]


def _spoiled(tie: tuple[set[Axis], str]) -> bool:
    """A tie with a protected axis protects all."""
    axes, reason = tie
    if not any(leaf.reason for leaf in axes):
        return False
    for leaf in axes:
        protect(leaf, reason)
    return True


def _tie(exprs: list[Expr], tied: set[Axis]) -> bool:
    """Find the axes that must keep equal counts; False if equal counts cannot be had axis by axis."""
    first = exprs[0]
    if all(expr is first or leaves(expr) == leaves(first) for expr in exprs) and _one_kind(exprs):
        return True
    if all(all(leaf.reason for leaf in leaves(expr)) for expr in exprs):
        return True
    if not _one_kind(exprs) or len({expr.size for expr in exprs}) > 1:
        return False
    if isinstance(first, Axis):
        tied.update(expr for expr in exprs if isinstance(expr, Axis))
        return True
    parts = [
        expr.factors if isinstance(expr, Product) else expr.terms
        for expr in exprs
        if not isinstance(expr, Axis)
    ]
    if len({len(part) for part in parts}) > 1:
        return False
    return all(_tie(list(column), tied) for column in zip(*parts, strict=True))


def multiples_of(demands: Iterable[tuple[Expr, int]]) -> dict[Axis, int]:
    """Of how many positions each axis must keep a multiple, so that every dim of a picky kernel does.

    Args:
        demands: Dims with the number of which each must keep a multiple.
    """
    multiples: dict[Axis, int] = {}
    for expr, number in demands:
        stack = [(resolve(expr), number)]
        while stack:
            top, wanted = stack.pop()
            if isinstance(top, Axis):
                multiples[top] = lcm(multiples.get(top, 1), wanted)
            elif isinstance(top, Sum):
                stack.extend(
                    (term, wanted // gcd(wanted, times)) for term, times in Counter(top.terms).items()
                )
            else:
                fixed = [part for part in top.factors if all(leaf.reason for leaf in leaves(part))]
                rest = wanted // gcd(wanted, prod(part.size for part in fixed))
                stack.extend((part, rest) for part in top.factors if part not in fixed)
    return multiples


def _one_kind(exprs: list[Expr]) -> bool:
    return len({type(expr) for expr in exprs}) == 1


def _members(graph: Graph, findings: Findings) -> dict[Axis, list[Member]]:
    """Collect the parameter and buffer dims that hold each axis."""
    members: dict[Axis, list[Member]] = defaultdict(list)
    for name, value in graph.tensors.items():
        node = next(iter(graph.readers[value]), None)
        arg = node.argument_of(value) if node else ""
        for at, dim in enumerate(findings.dims[value]):
            member = Member(
                tensor=name,
                dim=at,
                expr=dim,
                rank=len(graph.values[value].shape),
                kind=graph.values[value].kind,
                op=node.op if node else "",
                arg=arg,
                is_contracted=node is not None and (node.index, arg, at) in findings.contracted,
            )
            for leaf in dict.fromkeys(leaves(dim)):
                members[leaf].append(member)
    return members


def _names(members: Mapping[Axis, list[Member]]) -> dict[Axis, str]:
    """Name each channel axis after the module that makes it; further axes of a module get a number."""
    names: dict[Axis, str] = {}
    taken: dict[str, int] = defaultdict(int)
    for leaf, held in members.items():
        if leaf.structural and all(member.dim for member in held):
            continue
        makers = [member for member in held if not member.is_contracted and member.rank > 1]
        maker = (makers or held)[0]
        stem = maker.module or maker.tensor
        taken[stem] += 1
        names[leaf] = stem if taken[stem] == 1 else f"{stem}#{taken[stem]}"
    return names

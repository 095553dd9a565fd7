"""One call of an operator as its rule sees it: dims in, dims out, and what must be remembered of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.graph.axes import ONE, Expr, axis, protect, renormalise
from secateur.graph.equation import Dots, Equation, Letter, build, solve_sizes
from secateur.graph.node import Graph, Node, Path, Ref
from secateur.graph.unify import equate


@dataclass
class Findings:
    """What the rules of all nodes found, beside the dims themselves.

    Attributes:
        dims: The dims of each value, by value index.
        literals: By node index and argument path: the dim whose size this integer is.
        macs: By node index: MACs as a sum of products of dims.
        multiples: Dims whose count must stay a multiple of a number, as a kernel demands.
        balanced: Dims that must keep equal counts, with the node that demands it.
        renormalised: By node index: the dim over which the node takes statistics.
        barriers: Nodes whose dims were all protected, with the reason.
        contracted: Operand dims that the operator sums over: (node index, argument, dim).
    """

    dims: dict[int, list[Expr]] = field(default_factory=dict)
    literals: dict[tuple[int, Path], Expr] = field(default_factory=dict)
    macs: dict[int, list[list[Expr]]] = field(default_factory=dict)
    multiples: list[tuple[Expr, int]] = field(default_factory=list)
    balanced: list[tuple[list[Expr], str]] = field(default_factory=list)
    renormalised: dict[int, list[Expr]] = field(default_factory=dict)
    barriers: dict[int, str] = field(default_factory=dict)
    contracted: set[tuple[int, str, int]] = field(default_factory=set)


class Call:
    """A node and the dims of its operands.

    Args:
        graph: The record.
        node: The call.
        findings: Where dims are looked up and discoveries are written.
    """

    def __init__(self, graph: Graph, node: Node, findings: Findings) -> None:
        self.graph = graph
        self.node = node
        self.findings = findings
        self.is_unused = node.index in graph.unused

    def __contains__(self, name: str) -> bool:
        """Whether a tensor argument is present."""
        return isinstance(self.node.args.get(name), Ref)

    def __getitem__(self, name: str) -> list[Expr]:
        """The dims of a tensor argument."""
        return self._dims(self.node.args[name])

    def _dims(self, ref: Ref) -> list[Expr]:
        return self.findings.dims[ref.value]

    def arg(self, name: str, default: Any = None) -> Any:
        """A literal argument."""
        return self.node.args.get(name, default)

    def tensors(self, name: str) -> list[list[Expr]]:
        """The dims of every tensor in a list argument."""
        return [self._dims(ref) for ref in self.node.args[name]]

    def operands(self) -> Iterator[tuple[str, list[Expr]]]:
        """Every tensor argument with its dims, lists included."""
        for name, value in self.node.args.items():
            items = value if isinstance(value, tuple) else (value,)
            for item in items:
                if isinstance(item, Ref):
                    yield name, self._dims(item)

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The recorded shape of an output."""
        ref = self.node.outputs[index]
        return self.graph.values[ref.value].shape if ref else ()

    def out_shapes(self) -> list[tuple[int, ...]]:
        """The recorded shapes of all outputs."""
        return [self.graph.values[ref.value].shape if ref else () for ref in self.node.outputs]

    def dim(self, value: int, rank: int) -> int:
        """A dim argument as a position from the left."""
        return value % rank if rank else 0

    def equate(self, left: Expr, right: Expr) -> None:
        """Declare two dims equal; where they cannot be aligned both are protected."""
        equate(left, right, self.node)

    def protect(self, expr: Expr, reason: str, *, structural: bool = False) -> None:
        """Forbid to cut a dim; what an unused call reads of it does not count."""
        if not self.is_unused:
            protect(expr, f"{reason}: {self.node}", structural=structural)

    def fixed(self, size: int, reason: str, *, structural: bool = False) -> Expr:
        """A fresh dim that may not be cut."""
        return axis(size, f"{reason}: {self.node}", structural=structural)

    def literal(self, path: Path, expr: Expr) -> None:
        """Remember that an integer argument is the size of a dim."""
        self.findings.literals[self.node.index, path] = expr

    def balance(self, exprs: Sequence[Expr], reason: str) -> None:
        """Demand that dims keep equal counts."""
        if not self.is_unused:
            self.findings.balanced.append((list(exprs), f"{reason}: {self.node}"))

    def multiple(self, expr: Expr, number: int) -> None:
        """Demand that a dim keeps a multiple of so many positions."""
        if not self.is_unused:
            self.findings.multiples.append((expr, number))

    def renormalise(self, expr: Expr, what: str) -> None:
        """Mark that the operator takes statistics over a dim."""
        if self.is_unused:
            return
        renormalise(expr, f"{what}: {self.node}")
        self.findings.renormalised.setdefault(self.node.index, []).append(expr)

    def count_macs(self, *factors: Expr) -> None:
        """Add a product of dims to the node's MACs."""
        self.findings.macs.setdefault(self.node.index, []).append(list(factors))

    def barrier(self, reason: str) -> list[list[Expr]]:
        """Protect every dim of every operand and output."""
        self.findings.barriers[self.node.index] = reason
        for _, dims in self.operands():
            for dim in dims:
                self.protect(dim, reason)
        return [[self.fixed(size, reason) for size in shape] for shape in self.out_shapes()]

    def broadcast(self, *operands: Sequence[Expr]) -> list[Expr]:
        """Equate dims from the right, as PyTorch broadcasts; returns the dims of the result."""
        rank = max((len(dims) for dims in operands), default=0)
        result: list[Expr] = []
        for position in range(rank):
            found: Expr = ONE
            for dims in operands:
                at = position - rank + len(dims)
                if at < 0 or dims[at].size == 1:
                    continue
                if found.size == 1:
                    found = dims[at]
                else:
                    self.equate(found, dims[at])
            result.append(found)
        return result

    def equation(
        self,
        parsed: Equation,
        *,
        macs: str = "",
        sizes: Mapping[str, str] | None = None,
        renormalised: str = "",
        fixed: str = "",
    ) -> list[list[Expr]]:
        """Apply an equation to this call; see `secateur.coupling.rule.equation`."""
        present = {name: self[name] for name in parsed.operands if name in self}
        known = {letter: int(self.arg(name)) for letter, name in (sizes or {}).items()}
        shapes = {name: [dim.size for dim in dims] for name, dims in present.items()}
        shapes.update({f"->{index}": list(self.out_shape(index)) for index in range(len(parsed.outputs))})
        solve_sizes(parsed.whole, shapes, known)
        letters: dict[str, Expr] = {}
        dots: list[list[Expr]] = []
        for name, dims in present.items():
            dots.extend(self._bind_operand(parsed, name, dims, letters, known))
        shared = self.broadcast(*dots)
        results = [
            [
                expr
                for dim in pattern
                for expr in (shared if isinstance(dim, Dots) else [build(dim, letters, known)])
            ]
            for pattern in parsed.outputs
        ]
        for letter in parsed.once & letters.keys():
            self.protect(letters[letter], "a kernel or spatial dim", structural=True)
        for letter in fixed.split():
            self.protect(letters[letter], f"axis {letter} is fixed by the operator")
        for letter, name in (sizes or {}).items():
            self.literal((name,), letters.get(letter, ONE))
        for letter in renormalised.split():
            for expr in shared if letter == "..." else [letters[letter]]:
                self.renormalise(expr, "statistics are taken over it")
        for term in filter(None, macs.split("+")):
            tokens = term.split()
            factors = [letters[token] for token in tokens if token != "..."]
            self.count_macs(*factors, *(shared if "..." in tokens else ()))
        return results

    def _bind_operand(
        self,
        parsed: Equation,
        name: str,
        dims: list[Expr],
        letters: dict[str, Expr],
        sizes: Mapping[str, int],
    ) -> Iterator[list[Expr]]:
        """Equate an operand's dims with its pattern; yields what stands opposite to the dots."""
        pattern = parsed.operands[name]
        spare = len(dims) - len(pattern) + 1
        at = 0
        for dim in pattern:
            if isinstance(dim, Dots):
                yield dims[at : at + spare]
                at += spare
                continue
            if dim in parsed.contracted:
                self.findings.contracted.add((self.node.index, name, at))
            if isinstance(dim, Letter):
                self.equate(letters.setdefault(dim.name, dims[at]), dims[at])
            else:
                self.equate(build(dim, letters, sizes), dims[at])
            at += 1

"""Let integers follow their axis: which fields take which number, and which code needs a correction.

Every literal that a rule bound to a dim is an equation: term over fields and sizes = predicted count. A field
takes the number that most of its literals demand; code whose term still gives another one is corrected. A
number written in the code is a statement of its author (`view(b, n, 4, -1)`: four heads) and stays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from secateur.capture import Site, Trace
from secateur.capture.places import CodePlace
from secateur.capture.source import SourceMissingError
from secateur.capture.tracer import Equality
from secateur.coupling import Groups
from secateur.cut.corrections import Correction, divisor_of, number_name
from secateur.graph.axes import Axis, Expr, leaves
from secateur.graph.keep import Kept
from secateur.graph.node import Path, scalars_in
from secateur.graph.origin import Field, Made, Origin, Size, evaluate, fields_in, sizes_in, solve_for


@dataclass(frozen=True)
class Followed:
    """How the integers of a model follow a cut.

    Attributes:
        fields: The new number of each field that changes.
        corrections: The corrections by module.
        refused: Why the code around a node, by index, cannot be corrected.
        torn: The axes, by such a node, that ask different numbers of the code.
    """

    fields: Mapping[Field, int]
    corrections: Mapping[str, tuple[Correction, ...]]
    refused: Mapping[int, str] = field(default_factory=dict)
    torn: Mapping[int, frozenset[Axis]] = field(default_factory=dict)


Corrections = Mapping[str, tuple[Correction, ...]]


def joined(known: Corrections, more: Corrections) -> dict[str, tuple[Correction, ...]]:
    """Corrections and those at further places, with numbers of their own."""
    found = dict(known)
    for module, corrections in more.items():
        here = found.get(module, ())
        places = {one.place for one in here}
        new = [one for one in corrections if one.place not in places]
        taken = {one.number for one in here}
        numbers = map(number_name, range(len(here) + len(new) + len(taken)))
        names = (name for name in numbers if name not in taken)
        found[module] = (*here, *(replace(one, number=name) for one, name in zip(new, names, strict=False)))
    return found


def predict(expr: Expr, value: int, kept: Kept) -> int:
    """The number that a literal must be after a cut.

    A size that nothing cuts stays as written: -1, or a number beyond the end.

    Args:
        expr: The dim that it is the size of.
        value: The number before.
        kept: What stays of each axis.
    """
    return kept.count(expr) if kept.cuts(expr) else value


INFERRING = frozenset({"aten.view", "aten.reshape"})
"""Operators that find one size by themselves, given as -1."""

Scalars = Mapping[tuple[int, Path], tuple[float, float]]
"""By node index and argument path: a number before and after."""


def follow_integers(groups: Groups, kept: Kept, trace: Trace, held: Scalars | None = None) -> Followed:
    """Find the fields to set and the code to correct for a choice of counts.

    Args:
        groups: The groups of the original.
        kept: What stays of each axis.
        trace: Where its integers came from.
        held: Numbers that the cut model computes from a size, such as an attention scale, to keep as they
            were.
    """
    return _Follower(groups, kept, trace).follow(held or {})


class _Follower:
    def __init__(self, groups: Groups, kept: Kept, trace: Trace) -> None:
        self.groups = groups
        self.kept = kept
        self.trace = trace
        self.decided: dict[Field, int] = {}
        self.refused: dict[int, str] = {}
        self.torn: dict[int, frozenset[Axis]] = {}
        self.written: dict[tuple[int, Path], int] = {
            (node.index, path): value
            for node in groups.graph.nodes
            for path, value in scalars_in(node).items()
        }
        self.wanted = {
            key: predict(expr, self.written[key], kept)
            for key, expr in groups.findings.literals.items()
            if key in self.written
        }

    def follow(self, held: Scalars) -> Followed:
        equations = [
            (origin, self.wanted[key]) for key, origin in self.trace.origins.items() if key in self.wanted
        ]
        self._decide(self._asserted())
        while self._decide(equations):
            pass
        self._decide(self._compared())
        self._repair()
        corrections = self._corrections(held)
        changes = {held: now for held, now in self.decided.items() if now != self.trace.fields[held]}
        return Followed(changes, corrections, self.refused, self.torn)

    def _decide(self, equations: Iterable[tuple[Origin, int]]) -> bool:
        """Solve the equations that have one open field, once; whether some field was decided."""
        votes: dict[Field, Counter[int]] = defaultdict(Counter)
        for origin, wanted in equations:
            open_fields = [held for held in fields_in(origin) if held not in self.decided]
            if len(open_fields) != 1:
                continue
            try:
                found = solve_for(open_fields[0], origin, wanted, self._value)
            except ZeroDivisionError:
                continue
            if found is not None and found > 0:
                votes[open_fields[0]][found] += 1
        for held, counted in votes.items():
            self.decided[held] = max(counted, key=lambda number: (counted[number], number))
        return bool(votes)

    def _asserted(self) -> Iterable[tuple[Origin, int]]:
        """Fields that the model finds equal to a size; such a check cannot be corrected, a call can."""
        for one, two in self.trace.equalities:
            for side, other in ((one, two), (two, one)):
                if isinstance(side, Field) and isinstance(other, Size):
                    yield side, self._value(other)

    def _compared(self) -> Iterable[tuple[Origin, int]]:
        """Terms that the model compares with a term without open fields."""
        for one, two in self.trace.equalities:
            for side, other in ((one, two), (two, one)):
                if all(held in self.decided for held in fields_in(other)):
                    yield side, evaluate(other, self._value)

    def _repair(self) -> None:
        """Move fields so that what the model asserts of them stays true: `width // heads * heads == width`.

        The nearest number that does is taken; calls that then pass another number are corrected.
        """
        asserted: dict[Field, list[Equality]] = defaultdict(list)
        for pair in self.trace.equalities:
            fields = {held for side in pair for held in fields_in(side)}
            if len(fields) == 1 and any(isinstance(side, Made) for side in pair):
                asserted[fields.pop()].append(pair)
        for held, pairs in asserted.items():
            start = self.decided.get(held, self.trace.fields[held])
            for number in sorted(range(1, 2 * start), key=lambda number: (abs(number - start), -number)):
                if all(self._is_true(pair, held, number) for pair in pairs):
                    self.decided[held] = number
                    break

    def _is_true(self, pair: Equality, held: Field, number: int) -> bool:
        def value(source: Field | Size) -> int:
            return number if source == held else self._value(source)

        try:
            return evaluate(pair[0], value) == evaluate(pair[1], value)
        except ZeroDivisionError:
            return False

    def _value(self, source: Field | Size) -> int:
        if isinstance(source, Field):
            return self.decided.get(source, self.trace.fields[source])
        return self.kept.count(self.groups.findings.dims[source.value][source.dim])

    def _corrections(self, held: Scalars) -> dict[str, tuple[Correction, ...]]:
        found: dict[tuple[str, CodePlace], Correction] = {}
        known: dict[object, tuple[str, Correction]] = {}  # by code and change: runs of a loop are alike
        for key, site, made in [*self._of_sizes(), *self._of_scalars(held)]:
            try:
                alike = (site.code, site.stack.frames, made)
                if alike not in known:
                    known[alike] = self._correction(site, made, held)
            except SourceMissingError as error:
                self.refused.setdefault(key[0], str(error))
                asked = self.torn.get(key[0], frozenset())
                self.torn[key[0]] = asked.union(*map(self._axes_of, self._same_code[site.code]))
                continue
            module, correction = known[alike]
            found[module, correction.place] = correction
        return self._named(found)

    def _axes_of(self, key: tuple[int, Path]) -> set[Axis]:
        """The axes that a number counts."""
        expr = self.groups.findings.literals.get(key)
        return set() if expr is None else set(leaves(expr))

    def _correction(self, site: Site, made: "_Change", held: Scalars) -> tuple[str, Correction]:
        """The correction of a number, for all runs of the code that passes it.

        Where they need different numbers, each call of the method that holds the code gets one of its own.

        Raises:
            SourceMissingError: There is none.
        """
        for outer in range(site.stack.depth):
            module, place = self.trace.place(site, outer)
            correction = self._form(place, *made)
            same = [key for key in self._same_code[site.code] if self._is_at(key, place, outer)]
            if all(correction.serves(*self._numbers(key, held)) for key in same):
                return module, correction
        module, place = self.trace.place(site)
        if all(self._may_be_inferred(key, held) for key in self._same_code[site.code]):
            return module, Correction(place, "", 0, 0, "inferred")
        raise SourceMissingError(f"{place} serves runs that need different numbers")

    def _may_be_inferred(self, key: tuple[int, Path], held: Scalars) -> bool:
        """Whether PyTorch finds a size by itself: in a view all other sizes of which are right."""
        node, (index, path) = self.groups.graph.nodes[key[0]], key
        if node.op not in INFERRING or key in held or self.written[key] == -1:
            return False
        sizes = [(index, other) for other in scalars_in(node) if other[:1] == path[:1] and other != path]
        return all(
            self.written[other] != -1
            and self._numbers(other, held) == (self.wanted.get(other, self.written[other]),) * 2
            for other in sizes
        )

    def _is_at(self, key: tuple[int, Path], place: CodePlace, outer: int) -> bool:
        site = self.trace.sites[key]
        return outer < site.stack.depth and self.trace.place(site, outer)[1] == place

    def _numbers(self, key: tuple[int, Path], held: Scalars) -> tuple[float, float]:
        """What a run of the cut model passes, and what it must pass."""
        if key in held:
            return held[key][1], held[key][0]
        try:
            passed = evaluate(self.trace.origins.get(key, self.written[key]), self._value)
        except ZeroDivisionError as error:
            raise SourceMissingError("another run of the code would divide by zero") from error
        return passed, self.wanted.get(key, passed)

    @cached_property
    def _same_code(self) -> dict[object, list[tuple[int, Path]]]:
        """The numbers that one instruction of a module passes in all of its runs."""
        found: dict[object, list[tuple[int, Path]]] = defaultdict(list)
        for key, site in self.trace.sites.items():
            found[site.code].append(key)
        return found

    def _named(self, found: Mapping[tuple[str, CodePlace], Correction]) -> dict[str, tuple[Correction, ...]]:
        """The corrections by module, each with a number of its own."""
        by_module: dict[str, list[Correction]] = defaultdict(list)
        prefix = number_name(0)[:-1]
        for (module, _), one in found.items():
            taken = sum(
                held.module == module and str(held.path[0]).startswith(prefix) for held in self.trace.fields
            )
            name = number_name(taken + len(by_module[module]))
            by_module[module].append(replace(one, number=name))
        return {module: tuple(corrections) for module, corrections in by_module.items()}

    def _of_sizes(self) -> Iterator[tuple[tuple[int, Path], Site, "_Change"]]:
        """Code that passes another number than the size of its dim."""
        for key, wanted in self.wanted.items():
            origin, site = self.trace.origins.get(key), self.trace.sites.get(key)
            if site is None or origin is None or isinstance(origin, int):
                continue
            try:
                passed = evaluate(origin, self._value)
            except ZeroDivisionError:
                continue
            if passed != wanted and not self._adapts_factor(origin, wanted):
                yield key, site, (origin, passed, wanted)

    def _of_scalars(self, held: Scalars) -> Iterator[tuple[tuple[int, Path], Site, "_Change"]]:
        """Code that computes a number from a size, which must stay as it was."""
        for key, (before, after) in held.items():
            site = self.trace.sites.get(key)
            if site is not None:
                yield key, site, (self.trace.origins.get(key, 0), after, before)

    def _adapts_factor(self, origin: Origin, wanted: int) -> bool:
        """Set the two numbers of a factor that an earlier cut corrected, if the term is one."""
        match origin:
            case Made("*", Made("//", inner, Field() as divisor), Field() as factor) if divisor == Field(
                factor.module, (divisor_of(str(factor.path[0])),)
            ):
                others = prod(self._varying_factors(inner))
                self.decided[divisor] = evaluate(inner, self._value) // others
                self.decided[factor] = wanted // others
                return True
        return False

    def _form(self, place: CodePlace, origin: Origin, passed: float, wanted: float) -> Correction:
        """The correction of a number, relative to the sizes that another run may have otherwise.

        Raises:
            SourceMissingError: The number cannot be told apart from them.
        """
        if not any(map(self._varies, sizes_in(origin))):
            return Correction(place, "", passed, wanted)
        factors = self._varying_factors(origin)
        whole = prod(factors)
        if factors and passed % whole == 0 == wanted % whole:
            return Correction(place, "", passed // whole, wanted // whole, "factor")
        if isinstance(origin, Made) and origin.operator in "+-" and self._is_apart(origin):
            return Correction(place, "", passed, wanted, "offset")
        raise SourceMissingError(f"{place} mixes the size with others that differ from run to run")

    def _is_apart(self, origin: Made) -> bool:
        """Whether one side of a sum holds the sizes that vary, the other those that are cut."""
        sides = [list(sizes_in(side)) for side in (origin.left, origin.right)]
        varying = [any(map(self._varies, sizes)) for sizes in sides]
        cut = [any(self._value(size) != self._before(size) for size in sizes) for sizes in sides]
        return not any(one and two for one, two in zip(varying, cut, strict=True))

    def _varying_factors(self, origin: Origin) -> list[int]:
        """The factors of a term that are sizes which differ from run to run."""
        if isinstance(origin, Size):
            return [self._value(origin)] if self._varies(origin) else []
        if isinstance(origin, Made) and origin.operator == "*":
            return self._varying_factors(origin.left) + self._varying_factors(origin.right)
        if isinstance(origin, Made) and origin.operator == "//" and not any(sizes_in(origin.right)):
            return self._varying_factors(origin.left)
        return []

    def _varies(self, size: Size) -> bool:
        """Whether a size depends on the inputs: no parameter or buffer has its axis.

        A size of 1 has no axis: it may be a batch of one.
        """
        dim = self.groups.findings.dims[size.value][size.dim]
        axes = set(leaves(dim))
        return not self.kept.cuts(dim) and not (axes and axes <= self._held_axes)

    @cached_property
    def _held_axes(self) -> set[Axis]:
        dims = self.groups.findings.dims
        held = set(self.groups.graph.tensors.values())
        return {leaf for index in held for dim in dims[index] for leaf in leaves(dim)}

    def _before(self, size: Size) -> int:
        return self.groups.findings.dims[size.value][size.dim].size


_Change = tuple[Origin, float, float]
"""Where a number comes from, what the cut model passes, what it must pass."""

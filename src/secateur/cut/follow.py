"""Let integers follow their axis: which fields take which number, and which calls need a correction.

Every literal that a rule bound to a dim is an equation: term over fields and sizes = predicted count. A field
takes the number that most of its literals demand; calls whose term still gives another one are corrected. A
number written in the code is a statement of its author (`view(b, n, 4, -1)`: four heads) and stays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from secateur.capture import Site, Trace
from secateur.capture.tracer import Equality
from secateur.coupling import Groups
from secateur.cut.corrections import Correction
from secateur.graph.axes import Expr
from secateur.graph.keep import Kept
from secateur.graph.node import Path, scalars_in
from secateur.graph.origin import Field, Made, Origin, Size, evaluate, fields_in, solve_for


@dataclass(frozen=True)
class Followed:
    """How the integers of a model follow a cut.

    Attributes:
        fields: The new number of each field that changes.
        corrections: The corrections by module.
    """

    fields: Mapping[Field, int]
    corrections: Mapping[str, tuple[Correction, ...]]

    def holding(self, held: Mapping[Site, Correction | None]) -> "Followed":
        """The same with more corrections."""
        return Followed(self.fields, _by_module(held, self.corrections))


def _by_module(
    found: Mapping[Site, Correction | None], known: Mapping[str, tuple[Correction, ...]]
) -> dict[str, tuple[Correction, ...]]:
    by_module = defaultdict(list, {module: list(corrections) for module, corrections in known.items()})
    for site, correction in found.items():
        if correction is not None:
            by_module[site.module].append(correction)
    return {module: tuple(corrections) for module, corrections in by_module.items()}


def hold_scalars(
    groups: Groups,
    kept: Kept,
    trace: Trace,
    scalars: Mapping[tuple[int, Path], tuple[float, float]],
) -> dict[Site, Correction | None]:
    """Keep numbers that the cut model computes from a size, such as an attention scale, as they were.

    Args:
        groups: The groups of the original.
        kept: What stays of each axis.
        trace: Where they are passed.
        scalars: By node index and argument path: the number before and after.

    Returns:
        By site its correction; None where the runs of a shared module need different ones.
    """
    follower = _Follower(groups, kept, trace)
    held: dict[Site, Correction | None] = {}
    for key, (before, after) in scalars.items():
        site = trace.sites.get(key)
        if site is not None:
            made = follower.corrected(site, trace.origins.get(key, 0), after, before)
            held[site] = made if held.get(site, made) == made else None
    return held


def predict(expr: Expr, value: int, kept: Kept) -> int:
    """The number that a literal must be after a cut.

    A size that nothing cuts stays as written: -1, or a number beyond the end.

    Args:
        expr: The dim that it is the size of.
        value: The number before.
        kept: What stays of each axis.
    """
    return kept.count(expr) if kept.cuts(expr) else value


def follow_integers(groups: Groups, kept: Kept, trace: Trace) -> Followed:
    """Find the fields to set and the calls to correct for a choice of counts.

    Args:
        groups: The groups of the original.
        kept: What stays of each axis.
        trace: Where its integers came from.
    """
    return _Follower(groups, kept, trace).follow()


class _Follower:
    def __init__(self, groups: Groups, kept: Kept, trace: Trace) -> None:
        self.groups = groups
        self.kept = kept
        self.trace = trace
        self.decided: dict[Field, int] = {}
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

    def follow(self) -> Followed:
        equations = [
            (origin, self.wanted[key])
            for key, origin in self.trace.origins.items()
            if key in self.wanted and key not in self.trace.corrected
        ]
        self._decide(self._asserted())
        while self._decide(equations):
            pass
        self._decide(self._compared())
        self._repair()
        changes = {held: now for held, now in self.decided.items() if now != self.trace.fields[held]}
        return Followed(changes, self._corrections())

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

    def _corrections(self) -> dict[str, tuple[Correction, ...]]:
        found: dict[Site, Correction | None] = {}
        for key, wanted in self.wanted.items():
            site = self.trace.sites.get(key)
            if site is None:
                continue
            made = self._correction(key, wanted, site)
            if site in found and found[site] != made:
                made = None  # the runs of a shared module need different numbers: the check will veto them
            found[site] = made
        return _by_module(found, {})

    def _correction(self, key: tuple[int, Path], wanted: int, site: Site) -> Correction | None:
        origin = self.trace.origins.get(key)
        if origin is None or isinstance(origin, int):
            return None
        try:
            passed = evaluate(origin, self._value)
        except ZeroDivisionError:
            return None
        if passed == wanted and key not in self.trace.corrected:
            return None
        return self.corrected(site, origin, passed, wanted)

    def corrected(self, site: Site, origin: Origin, passed: float, wanted: float) -> Correction:
        """The correction of a number, relative to the sizes that another run may have otherwise."""
        sizes = self._uncut_sizes(origin)
        whole = prod(sizes)
        if not sizes or wanted % whole or passed % whole:
            return Correction(site.function, site.ordinal, site.position, passed, wanted)
        return Correction(
            site.function, site.ordinal, site.position, passed // whole, wanted // whole, is_factor=True
        )

    def _uncut_sizes(self, origin: Origin) -> list[int]:
        """The factors of a term that are sizes which no plan cuts, such as the batch: runs differ in them."""
        if isinstance(origin, Size):
            before = self.groups.findings.dims[origin.value][origin.dim].size
            return [before] if self._value(origin) == before else []
        if isinstance(origin, Made) and origin.operator == "*":
            return self._uncut_sizes(origin.left) + self._uncut_sizes(origin.right)
        return []

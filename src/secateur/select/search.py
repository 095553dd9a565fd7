"""Search: other widths that meet the same budget, judged by what the network then puts out.

A scope chooses widths by scores of single layers, which know nothing of how errors add up on the way to the
outputs. The search starts from its widths. A candidate is a vector of widths: some units give channels up,
others take back what that saved, at the same cost; which channels a unit keeps is still the criterion's
order. Candidates are judged by the output error of the cut network, and the best go on, in rounds:

    round    share of the candidates    share of the data that each is recovered with
    1        1/2                        1/4
    2        1/4                        1/2
    3        1/4                        all

Before each round its parents, the best three so far, and the start are judged anew with the data of the
round, so errors compare. Of many candidates the best by one set of samples is partly the luckiest, so at the
end the best two and the start are judged on the other parts of the data in turn, each recovered by the rest:
what is returned is never worse than the start by all parts together. N candidates thus take the data of
N/2 + 16 recoveries at most.

References:
    Li et al., "Tyr-the-Pruner: Structural Pruning LLMs via Global Sparsity Distribution Optimization", 2025:
    evolutionary search of where sparsity goes, judged by outputs, from coarse steps to fine ones.
    https://arxiv.org/abs/2503.09657
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from secateur.select.widths import Widths

Judge: TypeAlias = Callable[[Sequence[int], float, int], float]
"""From kept counts, the share of the data to recover with, and the part to judge by, to an output error;
infinite where no such model can be cut. Part 0 is for the rounds."""

_ROUNDS = ((0.5, 0.25, 0.25), (0.25, 0.5, 0.125), (0.25, 1.0, 0.0625))
"""Share of the candidates, share of the data, and the largest share of a unit that a move takes."""

_PARENTS = 3
_FINALISTS = 2
_MOST_DRAWS = 50
"""How often a move is drawn before it is believed that there are no other widths."""


@dataclass(frozen=True)
class Candidate:
    """Widths, and how good they are.

    Attributes:
        kept: Channels that each unit keeps.
        error: The output error by all parts of the data: the root of the mean square.
    """

    kept: tuple[int, ...]
    error: float


def search_widths(
    widths: Widths,
    start: Sequence[int],
    most: float,
    judge: Judge,
    *,
    tries: int,
    parts: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Candidate], Candidate, int]:
    """Try other widths that cost no more.

    Args:
        widths: Kept counts and their cost.
        start: The counts that the scope chose.
        most: What may stay, in the budget's units; where the start costs more, as floors can make it, that.
        judge: Judges widths; smaller is better.
        tries: How many candidates to judge beside the start.
        parts: How many parts of the data there are to judge by.
        seed: Of what is drawn.
        say: Told at each round how far it is, and about how long the rest takes.

    Returns:
        Candidates that are better than the start, best first, then the start; the start; and how many
        others were tried. Fewer than asked where there are no other widths.
    """
    run = _Search(widths, max(most, widths.cost_of(start)), judge, np.random.default_rng(seed))
    first = tuple(start)
    best, tried = [first], 0
    for number, (part, share, reach) in enumerate(_ROUNDS):
        count = tries - tried if number == len(_ROUNDS) - 1 else round(part * tries)
        begun, before = time.perf_counter(), run.judged
        errors = {kept: run.error(kept, share) for kept in dict.fromkeys((first, *best))}
        seconds = (time.perf_counter() - begun) / max(run.judged - before, 1e-9)
        left = seconds * (_judgements_left(tries, number) + (_FINALISTS + 1) * (parts - 1))
        say(
            f"search: round {number + 1} of {len(_ROUNDS)}, {count} widths, output error "
            f"{min(errors.values()):.3g} so far (at the start {errors[first]:.3g}), about {left:.0f} s left"
        )
        for _ in range(count):
            child = run.child(sorted(errors, key=errors.__getitem__)[:_PARENTS], reach)
            if child is None:
                break
            tried += 1
            errors[child] = run.error(child, share)
        best = sorted(errors, key=errors.__getitem__)[:_PARENTS]
    origin = Candidate(first, run.by_all(first, errors[first], parts))
    better = [kept for kept in best if errors[kept] < errors[first]][:_FINALISTS]
    found = [Candidate(kept, run.by_all(kept, errors[kept], parts)) for kept in better]
    found = sorted((one for one in found if one.error < origin.error), key=lambda one: one.error)
    return [*found, origin], origin, tried


def _judgements_left(tries: int, number: int) -> float:
    """Judgements with all data that are as long as what is left when the parents of a round are judged."""
    rest = _ROUNDS[number:]
    again = sum((_PARENTS + 1) * share for _, share, _ in rest[1:])
    return again + sum(part * tries * share for part, share, _ in rest)


class _Search:
    """Draws candidates and judges them."""

    def __init__(self, widths: Widths, most: float, judge: Judge, drawn: np.random.Generator) -> None:
        self.widths, self.most, self.judge, self.drawn = widths, most, judge, drawn
        self.known: set[tuple[int, ...]] = set()
        self.judged = 0.0

    def error(self, kept: tuple[int, ...], share: float) -> float:
        self.known.add(kept)
        self.judged += share
        return self.judge(kept, share, 0)

    def by_all(self, kept: tuple[int, ...], error: float, parts: int) -> float:
        """The error by all parts, given that by the first."""
        errors = [error, *(self.judge(kept, 1.0, part) for part in range(1, parts))]
        return float(np.sqrt(np.mean(np.square(errors))))

    def child(self, parents: Sequence[tuple[int, ...]], reach: float) -> tuple[int, ...] | None:
        """Widths that were not judged yet, a move away from a parent; None if none is found."""
        for draw in range(_MOST_DRAWS):
            parent = parents[int(self.drawn.integers(len(parents)))]
            wider = reach if draw < _MOST_DRAWS // 2 else 1.0  # nothing new is left nearby
            found = self._moved(list(parent), wider)
            if found not in self.known:
                return found
        return None

    def _moved(self, kept: list[int], reach: float) -> tuple[int, ...]:
        """Let one unit or two give channels up, and others take back what fits, in an order that is drawn."""
        order = self.drawn.permutation(len(kept)).tolist()
        givers = [at for at in order if self.widths.smaller(at, kept[at]) is not None]
        givers = givers[: 1 + int(self.drawn.integers(2))]
        for at in givers:
            goal = kept[at] - self._step(at, reach)
            for less in self._smaller(at, kept[at]):
                kept[at] = less
                if less <= goal:
                    break
        takers = [at for at in order if at not in givers]
        for at in takers:
            self._grow(kept, at, kept[at] + self._step(at, reach))
        for at in (*takers, *givers):
            self._grow(kept, at, self.widths.units[at].size)
        return tuple(kept)

    def _step(self, at: int, reach: float) -> int:
        """How many channels a move gives or takes, at least one."""
        return max(1, round(self.widths.units[at].size * reach * self.drawn.uniform(0.0, 1.0)))

    def _smaller(self, at: int, count: int) -> Iterator[int]:
        while (less := self.widths.smaller(at, count)) is not None:
            yield less
            count = less

    def _grow(self, kept: list[int], at: int, goal: int) -> None:
        """Let a unit take what still fits, until it has so many channels."""
        self.widths.cost_of(kept)
        while kept[at] < goal and (more := self.widths.larger(at, kept[at])) is not None:
            if self.widths.move(at, more) > self.most:
                return
            kept[at] = more

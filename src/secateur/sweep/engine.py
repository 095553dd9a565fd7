"""Engines: who works the points of a sweep off.

A sweep knows what it wants to know: jobs, each a place and the choices of channels to be zeroed there. An
engine gives the counts of every choice as soon as it has them; the order is its own. The local engine does
one job after the other in this process; `sweep/cluster.py` spreads them over a Ray cluster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from secateur.sweep.forks import Counts, Forks
from secateur.sweep.places import ChannelPlace, GroupPlace


@dataclass(frozen=True)
class Job:
    """Points of a sweep that share a place.

    Attributes:
        place: Where channels are zeroed.
        choices: Which; an empty choice is the model as it is.
    """

    place: ChannelPlace | GroupPlace
    choices: tuple[tuple[int, ...], ...]


class Engine(Protocol):
    """Works jobs off."""

    def map(self, forks: Forks, jobs: Sequence[Job]) -> Iterator[tuple[int, int, Counts]]:
        """Judge the model on all samples once for each choice of each job.

        Args:
            forks: The model and the samples.
            jobs: What is wanted.

        Yields:
            The number of a job, the number of a choice in it, and its counts, in any order, each once.

        Raises:
            PathError: The model cannot be replayed, or a replay computes something else.
            CaptureError: What a layer returns is NaN or infinite.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class LocalEngine:
    """One job after the other, in this process."""

    def map(self, forks: Forks, jobs: Sequence[Job]) -> Iterator[tuple[int, int, Counts]]:
        """See `Engine.map`."""
        for number, job in enumerate(jobs):
            for choice, counts in enumerate(forks.counts(job.place, job.choices)):
                yield number, choice, counts

    def close(self) -> None:
        """Nothing is held."""

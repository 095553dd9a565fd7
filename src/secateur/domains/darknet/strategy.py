"""What a pruning strategy is: which groups it takes, how several scales become one, and how counts round.

    pool        the scales |gamma| of all layers that the strategy takes
    threshold   the (percent * pool)-th smallest of them; equal ones go from all layers evenly
    keep        the channels whose score is above the threshold
    ceiling     the smallest, over the groups, of their largest score: a threshold above it empties a group
    limit       the share of the pool below the ceiling

The score of a channel with several scales (a shortcut joins layers): their largest (union: a channel stays
that any layer would keep), their mean, or the first layer's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.coupling import Groups
from secateur.domains.darknet.blocks import ResidualBlock, residual_blocks
from secateur.domains.darknet.channels import ChannelGroup, channel_groups, scales_of
from secateur.domains.darknet.network import Darknet
from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.score import Scores
from secateur.select.floors import Floors
from secateur.select.units import units_of
from secateur.select.widths import Widths

__all__ = [
    "MERGES",
    "Ceiling",
    "ChannelRule",
    "Strategy",
    "StrategyChoice",
    "StrategyRequest",
    "power_of_two",
    "strategies",
]

MERGES = ("union", "mean", "first")
"""How the scales of a channel that several layers make become one score."""


@dataclass(frozen=True)
class StrategyRequest:
    """How far a strategy goes; None takes the strategy's own value.

    Attributes:
        percent: Share of the scales below the threshold, 0 <= percent < 1; of blocks, the share that goes.
        floor: Share of each group that always stays, at least one channel.
        round_to: Kept counts are rounded up to a multiple of this.
        merge: "union", "mean" or "first".
        blocks: How many residual blocks go.
    """

    percent: float = 0.5
    floor: float | None = None
    round_to: int | None = None
    merge: str | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.percent < 1:
            do = "pass a share such as 0.5"
            raise RequestError(f"percent is {self.percent:g}", ["allowed: 0 <= percent < 1"], do)
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise RequestError(f"floor is {self.floor:g}", ["allowed: 0 to 1"], "pass a share such as 0.1")
        if self.round_to is not None and self.round_to < 1:
            raise RequestError(f"round_to is {self.round_to}", do="pass a count such as 8")
        if self.merge is not None and self.merge not in MERGES:
            raise RequestError(f"unknown merge '{self.merge}'", do=f"choose one of {', '.join(MERGES)}")
        if self.blocks is not None and self.blocks < 1:
            raise RequestError(f"blocks is {self.blocks}", do="pass how many residual blocks shall go")

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name}={value}" for name, value in given.items())


@dataclass(frozen=True)
class Ceiling:
    """How far one global threshold can go.

    Attributes:
        threshold: The largest that empties no group.
        percent: The share of the scales below it.
    """

    threshold: float
    percent: float

    def __str__(self) -> str:
        return f"threshold ceiling {self.threshold:.4g}, percent limit {100 * self.percent:.1f} %"


@dataclass(frozen=True)
class StrategyChoice:
    """What a strategy keeps of the channels.

    Attributes:
        taken: The groups that the strategy takes.
        keep: Indices to keep of each of them, by name.
        threshold: The scale below which channels went; 0 where none was asked to.
        ceiling: How far one threshold can go.
        floored: Groups of which the threshold alone would have left less than the floor.
    """

    taken: tuple[ChannelGroup, ...]
    keep: dict[str, tuple[int, ...]]
    threshold: float
    ceiling: Ceiling
    floored: tuple[str, ...]

    @property
    def removes(self) -> int:
        """How many channels go, each counted once however many layers make it."""
        return sum(group.size - len(self.keep.get(group.name, range(group.size))) for group in self.taken)

    @property
    def floored_layers(self) -> frozenset[int]:
        """The layers of the groups that the floor held."""
        return frozenset(
            layer for group in self.taken if group.name in self.floored for layer in group.layers
        )


@dataclass(frozen=True)
class ChannelRule:
    """How a strategy chooses channels.

    Attributes:
        takes: Whether it takes a group.
        merge: How several scales become one score, if the user does not say.
        floor: Share of each group that always stays, if the user does not say.
        rounded: From a kept count and the group's size to a count that is not smaller.
    """

    takes: Callable[[ChannelGroup], bool]
    merge: str = "union"
    floor: float = 0.0
    rounded: Callable[[int], int] = int

    def taken(self, model: Darknet, groups: Groups) -> tuple[ChannelGroup, ...]:
        """The groups that it takes."""
        return tuple(group for group in channel_groups(model, groups) if self.takes(group))

    def choose(self, model: Darknet, groups: Groups, asked: StrategyRequest) -> StrategyChoice:
        """Choose which channels stay.

        Args:
            model: The network.
            groups: What `secateur.couple` finds in it.
            asked: How far to go.

        Raises:
            RequestError: It takes no group of this network.
        """
        taken = self.taken(model, groups)
        if not taken:
            names = [f"{group.name}: {group.reason or 'not taken by this strategy'}" for group in groups]
            what = f"the strategy takes no layer of {model.config.name}"
            raise RequestError(what, names, "choose another strategy")
        scores = {group.name: _score(group, asked.merge or self.merge) for group in taken}
        floor = self.floor if asked.floor is None else asked.floor
        units = units_of(groups, Scores("scale", scores, {}), Floors(floor))
        pool = sorted(pair for group in taken for scale in group.scales for pair in _ranked(scale.flatten()))
        ceiling = min(float(score.max()) for score in scores.values())
        limit = Ceiling(ceiling, sum(value < ceiling for value, _ in pool) / len(pool))
        count = round(asked.percent * len(pool))
        if not count:
            return StrategyChoice(
                taken, {group.name: tuple(range(group.size)) for group in taken}, 0.0, limit, ()
            )
        threshold = pool[count - 1]
        above = [sum(pair > threshold for pair in _ranked(torch.from_numpy(unit.scores))) for unit in units]
        left = [max(kept, unit.floor) for kept, unit in zip(above, units, strict=True)]
        widths = Widths(groups, units, asked.round_to or 1, None)
        rounded = [number if asked.round_to else self.rounded(number) for number in left]
        return StrategyChoice(
            taken,
            keep=widths.indices([widths.rounded(index, number) for index, number in enumerate(rounded)]),
            threshold=threshold[0],
            ceiling=limit,
            floored=tuple(
                name
                for unit, kept in zip(units, above, strict=True)
                if kept < unit.floor
                for name in unit.names
            ),
        )


@dataclass(frozen=True)
class Strategy:
    """A strategy as it is registered.

    Attributes:
        summary: What it does, in a line, for `--help` and tables.
        channels: How it chooses channels; None leaves all.
        takes_blocks: Whether it removes residual blocks.
        block_share: The share of them that goes if the user gives no count; None takes `percent`.
    """

    summary: str
    channels: ChannelRule | None = None
    takes_blocks: bool = False
    block_share: float | None = None

    def prunable(self, model: Darknet, groups: Groups) -> list[nn.Parameter]:
        """The batch-norm scales that decide what goes: those that sparse training may penalise.

        Args:
            model: The network.
            groups: What `secateur.couple` finds in it.

        Returns:
            Parameters of the network, in its order, each once.
        """
        scales = [] if self.channels is None else scales_of(self.channels.taken(model, groups))
        if self.takes_blocks:
            held = {id(scale) for scale in scales}
            last = (
                model.get_parameter(f"layers.{block.last}.norm.weight") for block in residual_blocks(model)
            )
            scales += [scale for scale in last if id(scale) not in held]
        return scales

    def blocks(self, model: Darknet, asked: StrategyRequest) -> tuple[ResidualBlock, ...]:
        """The residual blocks that go, in the order of the network.

        Args:
            model: The network.
            asked: How far to go.

        Raises:
            RequestError: The network has no residual block, or fewer than are asked to go.
        """
        if not self.takes_blocks:
            return ()
        found = residual_blocks(model)
        if not found:
            what = f"{model.config.name} has no residual block that could be taken out"
            raise RequestError(what, do="choose a strategy for channels, such as normal or tiny")
        share = asked.percent if self.block_share is None else self.block_share
        count = round(share * len(found)) if asked.blocks is None else asked.blocks
        if count > len(found):
            what = f"{count} blocks are asked to go, {model.config.name} has {len(found)}"
            raise RequestError(what, do=f"pass at most {len(found)}")
        chosen = sorted(found, key=lambda block: block.score)[:count]
        return tuple(sorted(chosen, key=lambda block: block.layers))

    def require(self, name: str, asked: StrategyRequest) -> None:
        """Refuse what this strategy would pass over in silence.

        Raises:
            RequestError: An option has no meaning here.
        """
        unused: tuple[str, ...] = () if self.takes_blocks else ("blocks",)
        if self.channels is None:
            unused += ("floor", "round_to", "merge")
        given = [f"{option}={value}" for option in unused if (value := getattr(asked, option)) is not None]
        if given:
            raise RequestError(f"strategy {name} has no use for {', '.join(given)}", do="leave it out")


strategies: Registry[Strategy] = Registry("strategy", "secateur.domains.darknet.strategies")


def power_of_two(count: int) -> int:
    """The next power of two from 8 to 1024; counts above 1024 stay.

    Example:
        >>> [power_of_two(count) for count in (1, 8, 9, 600, 1025)]
        [8, 8, 16, 1024, 1025]
    """
    return count if count > 1024 else max(8, 1 << (count - 1).bit_length())


def _ranked(values: Tensor) -> list[tuple[float, float]]:
    """Values, ascending, each beside its rank from 0 to 1: equal ones of many layers go evenly."""
    ranks = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    return list(zip(values.sort().values.tolist(), ranks.tolist(), strict=True))


def _score(group: ChannelGroup, merge: str) -> Tensor:
    joined = torch.cat(group.scales[:1] if merge == "first" else group.scales, 1)
    return joined.mean(1) if merge == "mean" else joined.amax(1)

"""The channel groups of a Darknet network as its strategies see them: scales, layers, and what they feed.

Which layers belong together is the axis algebra's finding; which of them feed a shortcut or an upsampling
follows from the cfg. No layer number is written down anywhere.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from secateur.coupling import Group, Groups
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.score.view import Parameters, view_group

__all__ = ["ChannelGroup", "channel_groups", "feeding", "scales_of"]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """A group of channels that may be removed and whose layers are normalised.

    Attributes:
        name: The group's name in the axis algebra.
        size: Its channels.
        layers: The convolutions that make them, by number; several where shortcuts join them.
        in_shortcut: What they make reaches a `[shortcut]`.
        before_upsample: What they make reaches an `[upsample]`.
        scales: For each of the layers |gamma|, one row for each channel, float64. A row has several columns
            where a `[route]` takes equal parts: the channels that go together.
        parameters: The batch-norm scales themselves.
    """

    name: str
    size: int
    layers: tuple[int, ...]
    in_shortcut: bool
    before_upsample: bool
    scales: tuple[Tensor, ...] = field(repr=False)
    parameters: tuple[nn.Parameter, ...] = field(repr=False)


def channel_groups(model: Darknet, groups: Groups) -> tuple[ChannelGroup, ...]:
    """List the groups that a strategy may choose from, in the order of the network.

    Args:
        model: The network.
        groups: What `secateur.couple` finds in it.

    Returns:
        Free groups that have a batch-norm scale.

    Example:
        >>> import torch, secateur as sc
        >>> model = Darknet("digits")
        >>> found = channel_groups(model, sc.couple(model, torch.zeros(1, 3, 32, 32)))
        >>> [(group.layers, group.size) for group in found if group.in_shortcut]
        [((1, 3), 32), ((5, 7, 10), 64), ((12, 14, 17), 128)]
        >>> [group.layers for group in found if group.before_upsample]
        [(24,)]
    """
    shortcuts, upsamples = feeding(model, {"shortcut"}), feeding(model, {"upsample"})
    parameters = Parameters.of(model)
    found: list[ChannelGroup] = []
    for group in groups.prunable:
        norms = [member for member in view_group(group, parameters).members if member.is_norm_scale]
        layers = _makers(group)
        if norms:
            found.append(
                ChannelGroup(
                    name=group.name,
                    size=group.size,
                    layers=layers,
                    in_shortcut=not shortcuts.isdisjoint(layers),
                    before_upsample=not upsamples.isdisjoint(layers),
                    scales=tuple(norm.rows.detach().abs().double().cpu() for norm in norms),
                    parameters=tuple(_parameter(parameters, norm.tensor) for norm in norms),
                )
            )
    return tuple(found)


def feeding(model: Darknet, kinds: Collection[str]) -> frozenset[int]:
    """The convolutions whose output reaches a kind of section without another convolution between.

    Args:
        model: The network.
        kinds: Names of sections.

    Returns:
        Layer numbers.

    Example:
        >>> sorted(feeding(Darknet("yolov3-tiny"), {"upsample"}))
        [18]
    """
    found: set[int] = set()
    for index, section in enumerate(model.config.sections):
        open_ends = list(model.sources[index]) if section.name in kinds else []
        seen: set[int] = set()
        while open_ends:
            source = open_ends.pop()
            if source < 0 or source in seen:
                continue
            seen.add(source)
            if isinstance(model.layers[source], Convolutional):
                found.add(source)
            else:
                open_ends.extend(model.sources[source])
    return frozenset(found)


def scales_of(groups: Collection[ChannelGroup]) -> list[nn.Parameter]:
    """The batch-norm scales of some groups, in the order of the network, each once."""
    found = {id(scale): scale for group in groups for scale in group.parameters}
    return list(found.values())


def _makers(group: Group) -> tuple[int, ...]:
    """The layers whose convolution makes the channels: `layers.12.conv.weight` is that of layer 12."""
    made = (member.tensor.split(".") for member in group.members if member.rank > 1 and member.dim == 0)
    return tuple(sorted({int(words[1]) for words in made}))


def _parameter(parameters: Parameters, name: str) -> nn.Parameter:
    found = parameters.held[name]
    assert isinstance(found, nn.Parameter), "batch norm's scale is a parameter"
    return found

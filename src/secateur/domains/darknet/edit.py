"""Layers taken out of a network, and the layers that are left numbered anew.

Darknet's sections name each other by number. When layers go, whoever read one of them reads the layer before
it instead, and so on backwards: a residual block (convolution, convolution, shortcut) becomes the identity.
"""

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from secateur.domains.darknet.cfg import CfgSection, Config
from secateur.domains.darknet.exporting import export
from secateur.domains.darknet.layers import IMAGE
from secateur.domains.darknet.network import Darknet
from secateur.errors import RequestError

__all__ = ["remove_layers", "remove_sections", "renumbered"]

_REFERENCES = {"route": "layers", "shortcut": "from"}


def renumbered(count: int, removed: Collection[int]) -> Mapping[int, int]:
    """The new numbers of layers, and for a removed one that of its stand-in.

    Args:
        count: How many layers there were.
        removed: The ones that go.

    Returns:
        New numbers by old number; `IMAGE` (-1) is the input.

    Example:
        >>> dict(renumbered(6, {2, 3}))
        {-1: -1, 0: 0, 1: 1, 2: 1, 3: 1, 4: 2, 5: 3}
    """
    found, last = {IMAGE: IMAGE}, IMAGE
    for index in range(count):
        last += index not in removed
        found[index] = last
    return found


def remove_sections(config: Config, removed: Collection[int]) -> Config:
    """Take layers out of a cfg.

    Args:
        config: The cfg.
        removed: Numbers of the layers that go.

    Returns:
        A cfg without them, in which `layers=` and `from=` name the same layers as before, or the stand-ins of
        removed ones; a number that counted backwards still does. Comments stay.

    Raises:
        RequestError: There is no such layer, a head would go, or a route or shortcut would read the network's
            input, which the format cannot say.

    Example:
        >>> from secateur.domains.darknet import read_cfg
        >>> config = read_cfg("digits")
        >>> config.layer(26)["layers"], remove_sections(config, {9, 10, 11}).layer(23)["layers"]
        ('-1, 11', '-1, 8')
    """
    count = len(config.sections)
    for index in sorted(removed):
        if not 0 <= index < count:
            what = f"layer {index}, {config.name} has {count}"
            raise RequestError(what, do=f"name layers from 0 to {count - 1}")
        if config.layer(index).name == "yolo":
            raise config.error("a head cannot be removed", index, do="choose layers before it")
    numbers = renumbered(count, removed)
    kept: list[CfgSection] = []
    net = config.net
    for index, section in enumerate(config.sections):
        if index not in removed:
            kept.append(_with_references(config, index, numbers))
            continue
        comments = section.lines[_options_end(section) :]
        if kept:
            kept[-1] = CfgSection((*kept[-1].lines, *comments))
        else:
            net = CfgSection((*net.lines, *comments))
    return replace(config, net=net, sections=tuple(kept))


def remove_layers(model: Darknet, removed: Collection[int]) -> Darknet:
    """Take layers out of a network.

    Args:
        model: The network, cut or not; not changed.
        removed: Numbers of the layers that go.

    Returns:
        A new network with copies of the other layers. Its `config` is that of what it is now.

    Raises:
        RequestError: As for `remove_sections`, or what is left does not fit together.

    Example:
        >>> smaller = remove_layers(Darknet("digits"), {9, 10, 11})
        >>> len(smaller.layers), [head.index for head in smaller.heads]
        (28, [19, 27])
    """
    config = remove_sections(export(model), removed)
    with torch.device("meta"):
        smaller = Darknet(config)
    kept = [layer for index, layer in enumerate(model.layers) if index not in removed]
    expected = [tuple(value.shape for value in layer.state_dict().values()) for layer in smaller.layers]
    for index, layer in enumerate(kept):
        if tuple(value.shape for value in layer.state_dict().values()) != expected[index]:
            do = "remove layers whose input and output have the same channels, such as a residual block"
            raise config.error("the layer no longer fits the one before it", index, do=do)
        smaller.layers[index] = copy.deepcopy(layer)
    smaller.header = model.header
    return smaller.train(model.training)


def _with_references(config: Config, index: int, numbers: Mapping[int, int]) -> CfgSection:
    section = config.layer(index)
    key = _REFERENCES.get(section.name)
    if key is None or key not in section.options:
        return section

    def renumber(match: re.Match[str]) -> str:
        number = int(match[0])
        target = numbers[number if number >= 0 else index + number]
        if target == IMAGE:
            do = "keep the first layer"
            raise config.error(f"{key}={number} would name the network's input", index, key, do=do)
        return str(target if number >= 0 else target - numbers[index])

    return section.replaced(**{key: re.sub(r"-?\d+", renumber, section[key])})


def _options_end(section: CfgSection) -> int:
    return max((section.row(key) for key in section.options), default=0) + 1

"""From a section to a module: what each kind of section is built from, and what it becomes.

A kind is one file in `sections/`: a function from a `SectionPlace` (the section, and the shapes of the layers
before it) to a `Layer` (the module, the shape of its output, and which outputs it reads).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from secateur.domains.darknet.cfg import NET, CfgSection, Config
from secateur.domains.darknet.heads import Head
from secateur.errors import RequestError
from secateur.registry import Registry

__all__ = ["IMAGE", "MOST_PARAMETERS", "Layer", "SectionPlace", "Shape", "kinds"]

_LARGEST = 2**31 - 1

MOST_PARAMETERS = 2**28
"""A gigabyte of float32; the largest networks of the Darknet programs have half of that."""

IMAGE = -1
"""The number that stands for the network's input among the outputs of the layers."""


@dataclass(frozen=True)
class Shape:
    """The shape of a layer's output at the input size that the cfg names.

    Attributes:
        channels: Channels.
        height: Rows.
        width: Columns.
        stride: Pixels of the input for each row and column.
    """

    channels: int
    height: int
    width: int
    stride: Fraction = Fraction(1)

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"


@dataclass(frozen=True)
class Layer:
    """What a section becomes.

    Attributes:
        module: Takes the outputs of its sources as positional arguments.
        shape: The shape of its output.
        sources: The layers it reads; `IMAGE` (-1) is the input.
        head: What a yolo layer says.
    """

    module: nn.Module
    shape: Shape
    sources: tuple[int, ...]
    head: Head | None = None


@dataclass(frozen=True)
class SectionPlace:
    """A section of a cfg, where it stands.

    Attributes:
        config: The whole cfg.
        index: The layer's number.
        shapes: The shapes of the layers before it, and as the last one that of the input, so that a layer's
            number, and `IMAGE`, are positions in it.
        eps: What batch normalisation adds to the variance.
    """

    config: Config
    index: int
    shapes: tuple[Shape, ...]
    eps: float

    @property
    def section(self) -> CfgSection:
        """The section itself."""
        return self.config.layer(self.index)

    @property
    def before(self) -> Shape:
        """The shape of the layer before it, of the input for the first."""
        return self.shapes[self.index - 1]

    def error(self, what: str, key: str | None = None, *context: str, do: str) -> RequestError:
        """The error about this section, with file and line."""
        return self.config.error(what, self.index, key, context=context, do=do)

    def integer(self, key: str, default: int | None = None, least: int = 0) -> int:
        """The value of a key as an integer of at least `least`; no default means that it must be there."""
        text = self._text(key, None if default is None else str(default))
        try:
            value = int(text)
        except ValueError as error:
            raise self.error(f"{key}={text[:60]} is no integer", key, do="write an integer") from error
        if value < least:
            raise self.error(f"{key}={value} is below {least}", key, do=f"write {least} or more")
        return self._in_range(key, value)

    def number(self, key: str, default: float) -> float:
        """The value of a key as a float."""
        return self._number(key, self._text(key, str(default)))

    def numbers(self, key: str, default: str | None = None) -> tuple[float, ...]:
        """The comma-separated values of a key as floats."""
        texts = self._text(key, default).split(",")
        return tuple(self._number(key, text.strip()) for text in texts if text.strip())

    def integers(self, key: str, default: str | None = None) -> tuple[int, ...]:
        """The comma-separated values of a key as integers."""
        values = self.numbers(key, default)
        if not all(value.is_integer() for value in values):
            raise self.error(f"{key} holds a fraction", key, do="write integers, with commas between them")
        return tuple(self._in_range(key, int(value)) for value in values)

    def _in_range(self, key: str, value: int) -> int:
        """Darknet's integers have 32 bits; a larger one would be another number there."""
        if abs(value) > _LARGEST:
            raise self.error(
                f"{key}={str(value)[:20]} has more than 32 bits", key, do=f"write {_LARGEST} or less"
            )
        return value

    def layers(self, key: str) -> tuple[int, ...]:
        """The layers that a key names, counted from the start, or backwards from here if negative."""
        found = []
        for number in self.integers(key):
            index = number if number >= 0 else self.index + number
            if not 0 <= index < self.index:
                raise self.error(
                    f"{key}={number} is layer {index}, which does not stand before layer {self.index}",
                    key,
                    do=f"name a layer from 0 to {self.index - 1}, or count backwards from -1 to {-self.index}"
                    if self.index
                    else "begin with another section",
                )
            found.append(index)
        if not found:
            raise self.error(f"{key} names no layer", key, do="name at least one layer")
        return tuple(found)

    def require(self, **plain: str) -> None:
        """Refuse options that would change what is computed, in a way that we do not.

        Args:
            plain: The only value we compute, by key; a missing key has it.
        """
        for key, value in plain.items():
            given = self.section.get(key, value) or ""
            if given != value and not _same_number(given, value):
                do = f"remove the line or write {key}={value}"
                raise self.error(f"{key}={given} is not supported, only {key}={value}", key, do=do)

    def _text(self, key: str, default: str | None) -> str:
        text = self.section.get(key, default)
        if text is None:
            raise self.error(f"{key} is missing", do=f"add a line {key}=...")
        return text

    def _number(self, key: str, text: str) -> float:
        try:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError(f"it is {value}")
        except ValueError as error:
            what = f"{key} holds {text[:60]!r}, which is no number"
            raise self.error(what, key, do="write numbers") from error
        return value


def _same_number(first: str, second: str) -> bool:
    try:
        return float(first) == float(second)
    except ValueError:
        return False


kinds: Registry[Callable[[SectionPlace], Layer]] = Registry("section", "secateur.domains.darknet.sections")


def input_place(config: Config) -> SectionPlace:
    """`[net]` as a place, for reading its numbers."""
    return SectionPlace(config, NET, (), 0.0)

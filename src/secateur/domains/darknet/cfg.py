"""Darknet's `.cfg`: text to sections and back, losing nothing.

    file    = lines before the first section, sections
    section = "[name]" line, then options "key=value", comments (# or ;) and empty lines in any order

A section keeps the lines it was read from. Its options are views of those lines, so comments, order, unknown
keys and spacing survive, and a changed value rewrites its own line only. Layers are numbered as Darknet
numbers them: the section after `[net]` is layer 0.

Source: Darknet's own reader (`src/parser.c`, `src/option_list.c` of pjreddie/darknet): white space does not
count, lines that begin with `#` or `;` are comments, the first section is `[net]` or `[network]`.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from secateur.errors import RequestError
from secateur.write.atomic import atomic_write

__all__ = [
    "NET",
    "CfgSection",
    "Config",
    "bundled_cfgs",
    "parse_cfg",
    "parse_options",
    "read_cfg",
    "write_cfg",
]

NET = -1
"""The number that stands for `[net]` where a layer is asked for."""

_OPTION = re.compile(
    r"(?P<before>\s*+(?P<key>[^=#;\s](?:[^=\s]|\s++(?=[^=\s]))*+)\s*+=[^\S\r\n]*+)"
    r"(?P<value>(?:[^#;\s]|\s++(?=[^#;\s]))*+)(?P<after>\s*+([#;].*)?)",
    re.DOTALL,
)
"""Linear in the length of the line: no run of white space is looked at from each of its places."""
_LONGEST_LINE = 10_000
_HEADER = re.compile(r"[\s\ufeff]*\[(?P<name>[^\]]*)\]\s*([#;].*)?", re.DOTALL)


@dataclass(frozen=True)
class CfgSection:
    r"""One section of a cfg.

    Attributes:
        lines: The lines it was read from, the first is its header; line ends included.

    Example:
        >>> section = CfgSection(("[maxpool]\n", "size = 2  # halves\n", "stride=2\n", "\n"))
        >>> section.name, section["size"], section.get("padding")
        ('maxpool', '2', None)
        >>> print(section.replaced(size=3, padding=1).text, end="")
        [maxpool]
        size = 3  # halves
        stride=2
        padding=1
        <BLANKLINE>
    """

    lines: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """What stands in the brackets, without white space."""
        header = _HEADER.fullmatch(self.lines[0])
        assert header is not None, "a section begins with its header"
        return "".join(header["name"].split())

    @cached_property
    def options(self) -> Mapping[str, str]:
        """Values by key, as text; of a key that stands twice the first value, as in Darknet."""
        found: dict[str, str] = {}
        for _, option in self._options():
            found.setdefault(option["key"], option["value"])
        return found

    @property
    def text(self) -> str:
        """The section as it stands in the file."""
        return "".join(self.lines)

    def __getitem__(self, key: str) -> str:
        return self.options[key]

    def get(self, key: str, default: str | None = None) -> str | None:
        """The value of a key as text, or the default."""
        return self.options.get(key, default)

    def row(self, key: str | None = None) -> int:
        """Which of its lines holds a key; the header is line 0, also for keys that are not there."""
        return next((row for row, option in self._options() if option["key"] == key), 0)

    def replaced(self, **values: object) -> "CfgSection":
        """The section with other values.

        Args:
            values: New values by key, written by `str`. A key that is not there yet is added after the last
                option; a value that stays the same leaves its line as it is.

        Returns:
            A new section.
        """
        lines = list(self.lines)
        for key, value in values.items():
            row = self.row(key)
            if not row:
                last = max((row for row, _ in CfgSection(tuple(lines))._options()), default=0)
                ending = "\r\n" if lines[last].endswith("\r\n") else "\n"
                if not lines[last].endswith("\n"):
                    lines[last] += ending
                lines.insert(last + 1, f"{key}={value}{ending}")
                continue
            option = _OPTION.fullmatch(lines[row])
            assert option is not None, "row() names an option"
            if option["value"] != str(value):
                lines[row] = f"{option['before']}{value}{option['after']}"
        return CfgSection(tuple(lines))

    def _options(self) -> Iterator[tuple[int, re.Match[str]]]:
        for row, line in enumerate(self.lines[1:], 1):
            if option := _OPTION.fullmatch(line):
                yield row, option


@dataclass(frozen=True)
class Config:
    """A whole cfg: the input, the layers, and the text they were read from.

    Attributes:
        net: The section `[net]`: input size, training settings.
        sections: The layers; layer 0 is the first section after `[net]`.
        name: The file's name, for messages and for naming what is written.
        opening: The text before the first section.

    Example:
        >>> config = read_cfg("yolov3-tiny")
        >>> config.layer(0)["filters"], config.line(0, "filters")
        ('16', 26)
        >>> smaller = config.replaced(0, filters=9)
        >>> smaller.layer(0)["filters"], config.layer(0)["filters"]
        ('9', '16')
    """

    net: CfgSection
    sections: tuple[CfgSection, ...]
    name: str = "cfg"
    opening: str = ""

    @property
    def text(self) -> str:
        """The file; equal to what was read, byte for byte, where nothing was replaced."""
        return self.opening + self.net.text + "".join(section.text for section in self.sections)

    def layer(self, index: int) -> CfgSection:
        """The section of a layer; `NET` (-1) is `[net]`."""
        return self.net if index == NET else self.sections[index]

    def line(self, index: int, key: str | None = None) -> int:
        """The line number, from 1, of a layer's header or of one of its keys."""
        before = [self.net, *self.sections][: index + 1]
        lines = self.opening.count("\n") + sum(len(section.lines) for section in before)
        return lines + 1 + self.layer(index).row(key)

    def replaced(self, index: int, **values: object) -> "Config":
        """The cfg with other values in one section.

        Args:
            index: The layer; `NET` (-1) for `[net]`.
            values: New values by key.

        Returns:
            A new cfg; every other line is as it was.
        """
        changed = self.layer(index).replaced(**values)
        if index == NET:
            return replace(self, net=changed)
        return replace(self, sections=(*self.sections[:index], changed, *self.sections[index + 1 :]))

    def error(
        self, what: str, index: int, key: str | None = None, *, context: tuple[str, ...] = (), do: str
    ) -> RequestError:
        """The error about a line of this cfg, which it names.

        Args:
            what: What does not fit, with both values.
            index: The layer, or `NET`.
            key: The key whose line is meant; None or a missing key means the header's.
            context: Further lines.
            do: What to do about it.

        Returns:
            The error, to be raised.
        """
        row = self.layer(index).row(key)
        shown = f"{self.name}:{self.line(index, key)}: {self.layer(index).lines[row].strip()}"
        where = "[net]" if index == NET else f"layer {index}, [{self.layer(index).name}]"
        return RequestError(f"{self.name}:{self.line(index, key)}: {what}", [where, shown, *context], do)


def bundled_cfgs() -> tuple[str, ...]:
    """The names of the cfg files that ship with the package.

    Example:
        >>> bundled_cfgs()
        ('digits', 'yolov3', 'yolov3-spp', 'yolov3-tiny', 'yolov4', 'yolov4-tiny')
    """
    files = resources.files("secateur.domains.darknet").joinpath("cfgs").iterdir()
    return tuple(sorted(file.name.removesuffix(".cfg") for file in files if file.name.endswith(".cfg")))


def read_cfg(path: Path | str) -> Config:
    """Read a cfg file.

    Args:
        path: The file, or the name of a bundled one such as "yolov3-tiny". A file comes first.

    Returns:
        Its sections; `Config.text` is what was read, byte for byte.

    Raises:
        RequestError: There is no such file, or a line is neither header, option, comment nor empty.

    Example:
        >>> config = read_cfg("yolov3-tiny")
        >>> len(config.sections), config.net["width"]
        (24, '416')
    """
    file = Path(path)
    if not file.is_file() and str(path) in bundled_cfgs():
        content = resources.files("secateur.domains.darknet").joinpath(f"cfgs/{path}.cfg").read_bytes()
        return parse_cfg(content.decode(), f"{path}.cfg")
    try:
        content = file.read_bytes()
    except OSError as error:
        known = bundled_cfgs()
        near = difflib.get_close_matches(str(path), known, n=1)
        raise RequestError(
            f"cannot read the cfg {path}: {error.strerror}",
            [f"bundled: {', '.join(known)}"],
            f"did you mean '{near[0]}'?" if near else "name a file or a bundled cfg",
        ) from error
    return parse_cfg(content.decode("utf-8", "surrogateescape"), file.name)


def parse_cfg(text: str, name: str = "cfg") -> Config:
    r"""Split the text of a cfg into its sections.

    Args:
        text: The file's content.
        name: What messages call it.

    Returns:
        Its sections.

    Raises:
        RequestError: A line is neither header, option, comment nor empty, a key stands twice with different
            values (programs disagree which one counts), or the first section is not `[net]`.

    Example:
        >>> parse_cfg("[net]\nwidth=32\n[convolutional]\nfilters 8\n", "net.cfg")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: net.cfg:4: 'filters 8' is no option
          write key=value, or # before a comment
    """
    opening: list[str] = []
    sections: list[list[str]] = []
    for number, line in enumerate(_lines(text), 1):
        if _HEADER.fullmatch(line):
            sections.append([line])
            continue
        if _option(line, number, name) and not sections:
            do = "begin with [net]"
            raise RequestError(f"{name}:{number}: {line.strip()!r} stands before the first section", do=do)
        (sections[-1] if sections else opening).append(line)
    found = [CfgSection(tuple(lines)) for lines in sections]
    first = found[0].name if found else "nothing"
    if first not in ("net", "network"):
        do = "begin with [net], which holds the input's size"
        raise RequestError(f"{name}: the first section is {first}, not [net]", do=do)
    config = Config(found[0], tuple(found[1:]), name, "".join(opening))
    _refuse_doubles(config)
    return config


def write_cfg(config: Config, path: Path | str) -> Path:
    """Write a cfg; the file is complete or not there.

    Args:
        config: What to write.
        path: The file.

    Returns:
        The path.
    """
    atomic_write(path, config.text.encode("utf-8", "surrogateescape"))
    return Path(path)


def parse_options(text: str, name: str) -> dict[str, str]:
    r"""Read the options of a file without sections, such as a `.data` file.

    Args:
        text: The file's content.
        name: What messages call it.

    Returns:
        Values by key.

    Raises:
        RequestError: A line is neither option, comment nor empty, or a key has two values.

    Example:
        >>> parse_options("classes = 2 # zero, one\n; more\n", "digits.data")
        {'classes': '2'}
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(text), 1):
        if (option := _option(line, number, name)) is None:
            continue
        key, value = option["key"], option["value"]
        if found.setdefault(key, value) != value:
            what = f"{name}:{number}: {key}={value}, and {key}={found[key]} before"
            raise RequestError(what, do="keep one of them")
    return found


def _option(line: str, number: int, name: str) -> re.Match[str] | None:
    """A line as an option; None if it is empty or a comment."""
    if len(line) > _LONGEST_LINE and line.lstrip()[:1] not in ("#", ";"):
        what = f"{name}:{number}: the line has {len(line):,} characters"
        raise RequestError(what, [f"allowed: {_LONGEST_LINE:,}"], "break it, or make it a comment")
    option = _OPTION.fullmatch(line)
    if option is None and line.strip("\ufeff \t\r\n\v\f")[:1] not in ("", "#", ";"):
        do = "write key=value, or # before a comment"
        raise RequestError(f"{name}:{number}: {line.strip()!r} is no option", do=do)
    return option


def _lines(text: str) -> list[str]:
    """Split at line feeds only, so that a carriage return stays with its line."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _refuse_doubles(config: Config) -> None:
    for index in range(NET, len(config.sections)):
        section = config.layer(index)
        for _, option in section._options():
            if option["value"] != section[option["key"]]:
                raise config.error(
                    f"{option['key']}={section[option['key']]} and {option['key']}={option['value']}"
                    " in one section",
                    index,
                    option["key"],
                    do="keep one of them: Darknet reads the first, OpenCV the last",
                )

"""Files of options: what `--config` reads, and the `run.yaml` that every run leaves in its folder."""

import difflib
import json
import platform
import subprocess
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
import yaml

from secateur.cli.terminal import command_line, detail
from secateur.errors import CheckpointError, RequestError
from secateur.write.atomic import atomic_write

RUN = "run.yaml"

PAIRS = "VALUE|GROUP=VALUE,..."
"""What stands after an option for one value, or one for each group."""

_OF_THE_FOLDER = ("resume", "overwrite")
"""Options that say what becomes of the folder, and nothing of what is put into it."""


@dataclass(frozen=True)
class Record:
    """What a run was asked for, and what it ran on.

    Attributes:
        command: Its words, such as "prune" or "darknet train".
        request: Every option that has a value, defaults included, by its name.
        typed: The command as typed.
        versions: Of secateur, torch and Python.
        git: Commit of the working directory and whether files that it tracks were changed; none outside of a
            repository.
        directory: The working directory, from which relative paths start.
        started: When.
    """

    command: str
    request: Mapping[str, Any]
    typed: str
    versions: Mapping[str, str]
    git: Mapping[str, Any] | None
    directory: str
    started: str

    @classmethod
    def of(cls, command: str, values: Mapping[str, Any]) -> "Record":
        """Take down a run that begins here and now."""
        return cls(
            command.partition(" ")[2],
            {key: _plain(value) for key, value in values.items() if value not in (None, [], ())},
            command_line(),
            versions(),
            _git() if values.get("save") else None,
            str(Path.cwd()),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def tell(self) -> None:
        """Say what was asked for, with `--verbose`."""
        for key, value in self.request.items():
            detail(f"  {key}: {value}")

    def write(self) -> None:
        """Leave the record in the folder that the run wrote, if it wrote one."""
        folder = Path(self.request.get("save", ""))
        if "save" in self.request and folder.is_dir():
            held = asdict(self)
            held["request"] = {key: value for key, value in self.request.items() if key not in _OF_THE_FOLDER}
            text = yaml.safe_dump(held, sort_keys=False, allow_unicode=True, width=100)
            atomic_write(folder / RUN, text.encode())


def versions() -> dict[str, str]:
    """What decides, beside the request, what comes out."""
    known = {name: metadata.version(name) for name in ("secateur", "torch")}
    return {**known, "python": platform.python_version()}


def _plain(value: Any) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _git() -> dict[str, Any] | None:
    def asked(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return {
            "commit": asked("rev-parse", "HEAD"),
            "changed": bool(asked("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one too large to ask
        return None


class _Loader(yaml.SafeLoader):
    """YAML in which no key may stand twice: the last would win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"'{twice}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_run(file: Path) -> Mapping[str, Any]:
    """Read a file of options, or the record of a run.

    Returns:
        The record; of a file of options its `request` alone.

    Raises:
        CheckpointError: There is no such file, or it cannot be read.
        RequestError: It is no YAML, or does not hold options.
    """
    try:
        held = yaml.load(file.read_text(), _Loader)
    except OSError as error:
        what = f"cannot read {file}: {(error.strerror or str(error)).lower()}"
        raise CheckpointError(what, do="name a YAML file of options") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"{file} is no YAML", str(error).splitlines(), "mend it") from error
    if not isinstance(held, Mapping):
        what = f"{file} holds {type(held).__name__}, not options"
        raise RequestError(what, do="write a line for each, such as ratio: 0.5")
    if isinstance(held.get("request"), Mapping):
        return held
    return {"request": held}


def fill_from(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults of a command from a file; what is typed wins over them.

    Raises:
        RequestError: The file is of another command, names an unknown option, or gives one a value that it
            cannot have.
    """
    if file is None or context.resilient_parsing:
        return file
    held, command = read_run(file), context.command_path.partition(" ")[2]
    if held.get("command", command) != command:
        what = f"{file} is of secateur {held['command']}, not of secateur {command}"
        raise RequestError(what, do=f"use it with secateur {held['command']}, or with secateur rerun")
    options, filled = _options(context.command), {}
    for word, value in held["request"].items():
        option = _option(options, word, str(file))
        if value is not None:
            filled[option.name] = _as_typed(option, value, f"{file}: {word} is {value!r}")
    context.default_map = {**(context.default_map or {}), **filled}
    return file


def words_of(app: Any, held: Mapping[str, Any], save: Path, *more: str) -> list[str]:
    """The words that ask for what a record says, every option written out.

    Args:
        app: The application.
        held: The record.
        save: Where to, instead of there.
        *more: Further options.

    Raises:
        RequestError: There is no such command, or it has no such option.
    """
    command, name = app, str(held["command"])
    for word in name.split():
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            raise RequestError(
                f"there is no command 'secateur {name}'", do="run it with the secateur it is from"
            )
    options, words, places = _options(command), name.split(), {}
    for key, value in {**held["request"], "save": str(save)}.items():
        option = _option(options, key, "the record")
        given = _as_typed(option, value, f"{key} is {value!r}")
        if option.param_type_name == "argument":
            places[option.name] = given
        elif isinstance(given, bool):
            words += option.opts[:1] if given else option.secondary_opts[:1]
        else:
            words += [f"{option.opts[0]}={one}" for one in (given if isinstance(given, list) else [given])]
    return [*words, *more, "--", *(places[option.name] for option in command.params if option.name in places)]


def _options(command: Any) -> dict[str, Any]:
    """Options and arguments of a command by their names in a file."""
    held = [option for option in command.params if option.name not in ("config_file", "help")]
    words = [one.opts[0] if one.param_type_name == "option" else one.name for one in held]
    return {word.lstrip("-").replace("_", "-"): one for word, one in zip(words, held, strict=True)}


def _option(options: Mapping[str, Any], word: str, where: str) -> Any:
    name = str(word).lstrip("-").replace("_", "-")
    if name in options:
        return options[name]
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "remove it"
    raise RequestError(f"{where} names '{word}'", [f"options: {', '.join(sorted(options))}"], hint)


def _as_typed(option: Any, value: Any, what: str) -> Any:
    """A value of a file as the words that would be typed."""
    if getattr(option, "is_flag", False) or isinstance(value, bool):
        if not (getattr(option, "is_flag", False) and isinstance(value, bool)):
            raise RequestError(what, do="write true or false for a switch, and words such as 'no' in quotes")
        return value
    if isinstance(value, Mapping):
        words = [f"{key}={_word(one)}" for key, one in value.items()]
    else:
        words = [_word(one) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, Mapping) and not (option.multiple or option.metavar == PAIRS):
        raise RequestError(what, do="write one value")
    return words if getattr(option, "multiple", False) else ",".join(words)


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)

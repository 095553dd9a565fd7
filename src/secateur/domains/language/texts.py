"""Texts in files.

text:book.txt                  the last fifth is for tests, the last tenth of the rest for validation
text:a.txt,b.txt               likewise, of all windows in this order
text:corpus  text:corpus/*.md  all .txt files of a folder, or those that a pattern finds
text:wiki.train.tokens,wiki.valid.tokens,wiki.test.tokens      parts, by a word in the names
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.domains.language.tokens import Vocabulary
from secateur.domains.language.windows import Windows, starts_of
from secateur.errors import RequestError
from secateur.train.own import TEST, VALIDATION, part_named
from secateur.train.parts import Opening, Parts

LENGTH = 128
"""Tokens of a window, if nobody says."""

OPTIONS = ("length", "tokenizer")


def open_text(word: str, opening: Opening) -> Parts:
    """Open the texts that a word names.

    What is not given is the end of the training text, never drawn: neighbours of a window tell about it.

    Args:
        word: "text:FILES"; see the module.
        opening: Its options are length (tokens of a window, default: 128) and tokenizer (the folder of one,
            default: bytes).

    Raises:
        RequestError: A file is missing or too short, or the options make no sense.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "book.txt").write_text("to be or not to be " * 100)
        ...     parts = open_text(f"text:{folder}/book.txt", Opening(options={"length": 16}))
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (85, 9, 24)
    """
    unknown = sorted(opening.options.keys() - set(OPTIONS))
    if unknown:
        raise RequestError(f"{', '.join(unknown)} is no option of texts", do=f"choose {' or '.join(OPTIONS)}")
    length = opening.options.get("length", LENGTH)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise RequestError(f"length is {length}", do="pass the tokens of a window, such as length=128")
    named = opening.options.get("tokenizer")
    vocabulary = Vocabulary.of(None if named is None else str(named))
    files = _by_part(word, opening.data_dir)
    read = {
        part: [vocabulary.read(path.read_bytes(), str(path)) for path in of] for part, of in files.items()
    }
    return Parts(word, **_windows(word, read, vocabulary, length))


def _windows(
    word: str, read: Mapping[str, list[Tensor]], vocabulary: Vocabulary, length: int
) -> dict[str, Any]:
    """The windows of each part; those that are not given come from the end of the training text."""
    tokens = {part: torch.cat(texts) for part, texts in read.items()}
    starts = {part: starts_of([len(text) for text in texts], length) for part, texts in read.items()}
    for part, share in (("test", TEST), ("validation", VALIDATION)):
        if part not in tokens:
            taken = max(1, round(share * len(starts["train"])))
            tokens[part] = tokens["train"]
            starts["train"], starts[part] = starts["train"][:-taken], starts["train"][-taken:]
    for part, least in (("train", 2), ("validation", 1), ("test", 1)):
        if len(starts[part]) < least:
            held = f"{sum(map(len, read.get(part, read['train']))):,} tokens"
            what = f"{word} is too short: its {part} part has {len(starts[part])} windows of {length} tokens"
            context = [f"the text it is taken from has {held} ({vocabulary.name})"]
            raise RequestError(what, context, "pass more text, or --data-arg length=N with a smaller N")
    return {part: Windows(vocabulary, tokens[part], starts[part], length) for part in starts}


def _by_part(word: str, folder: Path | None) -> dict[str, list[Path]]:
    """The files of each part, by a word in their names; of the training part, where none says."""
    kind, _, listed = word.partition(":")
    if kind != "text" or not listed:
        ways = "name files: text:book.txt, text:a.txt,b.txt, text:FOLDER or 'text:FOLDER/*.md'"
        raise RequestError(f"'{word}' is no text", do=ways)
    found: dict[str, list[Path]] = {}
    for path in [path for one in listed.split(",") for path in _files(one, folder)]:
        named = next((part for piece in re.split(r"[._-]", path.name) if (part := part_named(piece))), "")
        found.setdefault(named, []).append(path)
    if found.keys() == {""}:
        return {"train": found[""]}
    if "" in found or "train" not in found:
        known = [f"{part or 'no part'}: {', '.join(map(str, paths))}" for part, paths in found.items()]
        do = "name a training text, too, and either all files by their part (train, valid, test) or none"
        raise RequestError(f"{word} has texts for some parts only", known, do)
    return found


def _files(listed: str, folder: Path | None) -> list[Path]:
    path = Path(folder or "", listed)
    found = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not path.exists():
        found = sorted(one for one in path.parent.glob(path.name) if one.is_file())
    if not found:
        what = f"there is no .txt file in {path}" if path.is_dir() else f"there is no file {path}"
        raise RequestError(what, do=f"check the path; it is looked for in {Path.cwd()}")
    return found

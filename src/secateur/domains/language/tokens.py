"""Tokens: the numbers that stand for a text, bytes or those of a model's own tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from secateur.errors import RequestError
from secateur.extras import extra

BYTES = 256


@dataclass(frozen=True)
class Vocabulary:
    """What tokens there are.

    Attributes:
        name: "bytes", or the folder of a tokenizer.
        size: How many there are.
        is_asked_for: Whether the user named it; bytes that nobody asked for need a network of 256 tokens.
        tokenizer: Of transformers; None for bytes.
    """

    name: str
    size: int
    is_asked_for: bool
    tokenizer: Any = None

    @classmethod
    def of_bytes(cls, is_asked_for: bool = False) -> "Vocabulary":
        """Every byte is a token."""
        return cls("bytes", BYTES, is_asked_for)

    @classmethod
    def of(cls, word: str | None) -> "Vocabulary":
        """The tokens that a word names.

        Args:
            word: "bytes", None for the same, or a folder with the tokenizer of a model of transformers.
                Nothing is downloaded and no code in the folder is run.

        Raises:
            RequestError: There is no such folder, or no tokenizer in it.
            MissingExtraError: transformers is not installed.
        """
        if word is None or word == "bytes":
            return cls.of_bytes(word is not None)
        if not Path(word).is_dir():
            do = "pass a folder with a model's tokenizer.json: --data-arg tokenizer=FOLDER"
            raise RequestError(f"there is no folder {word}, which should hold a tokenizer", do=do)
        with extra("language", "tokenizers"):
            from transformers import AutoTokenizer
        try:
            made = AutoTokenizer.from_pretrained(word, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # each kind of file fails in its own way
            first = str(error).strip().partition("\n")[0]
            context = [f"{type(error).__name__}: {first}"]
            do = "save it there with tokenizer.save_pretrained"
            raise RequestError(f"{word} holds no tokenizer that can be read", context, do) from error
        if not len(made):
            raise RequestError(f"the tokenizer of {word} knows no token", do="save the right one there")
        return cls(word, len(made), True, made)

    def read(self, text: bytes, name: str = "the text") -> Int32[Tensor, " tokens"]:
        """Tokens of a text, without any that mark its beginning or end.

        Args:
            text: As it lies in its file; a tokenizer takes UTF-8 only.
            name: Of the file, for messages.

        Raises:
            RequestError: The text is not in UTF-8.

        Example:
            >>> Vocabulary.of_bytes().read("né".encode()).tolist()
            [110, 195, 169]
        """
        if self.tokenizer is None:
            return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int32))
        try:
            read = text.decode()
        except UnicodeDecodeError as error:
            do = "save it in UTF-8, or read it as bytes: leave tokenizer out"
            raise RequestError(f"{name} is no text in UTF-8: {error}", do=do) from error
        found = self.tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(found, dtype=torch.int32)

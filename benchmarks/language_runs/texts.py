"""SmolLM2-135M from its wheel, and Debian's documentation as tokens."""

import html
import math
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROW = 256
"""Tokens of a row."""


def chapter(folder: Path, number: int) -> str:
    """The text of a chapter of the Debian reference."""
    page = (folder / f"ch{number:02}.en.html").read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def rows(tokenizer: Any, text: str, count: int, start: int = 0) -> Tensor:
    """Consecutive tokens of a text as rows."""
    tokens = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    wanted = tokens[start : start + count * ROW]
    if len(wanted) < count * ROW:
        raise ValueError(f"the text has {len(tokens)} tokens, {start + count * ROW} are asked for")
    return wanted.view(count, ROW)


def calibration(tokenizer: Any, folder: Path, count: int, but: int) -> Tensor:
    """Rows of the chapters other than the one that is tested on, as many of each."""
    others = [number for number in range(1, 13) if number != but]
    share = -(-count // len(others))
    return torch.cat([rows(tokenizer, chapter(folder, one), share, start=ROW) for one in others])[:count]


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """Of the rows' tokens from the second on, each by those before it in its row."""
    total = 0.0
    for row in tokens.split(4):
        logits = model(input_ids=row, use_cache=False).logits[:, :-1]
        total += float(F.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / (tokens.shape[0] * (tokens.shape[1] - 1)))

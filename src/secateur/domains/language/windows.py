"""Windows: pieces of a text, all of one length, each token of which is the answer to those before it."""

from dataclasses import dataclass

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from secateur.domains.language.tokens import Vocabulary
from secateur.train.parts import WholeBatches

Batch = tuple[Int64[Tensor, "n length"], Int64[Tensor, "n length"]]


@dataclass(frozen=True, eq=False)
class Windows(WholeBatches):
    """One part of a text.

    Attributes:
        vocabulary: What the tokens are.
        tokens: All of the text, one file after the other.
        starts: Where in it the windows begin; none reaches into the next file.
        length: Tokens that a network sees at once.

    Example:
        >>> text = Vocabulary.of_bytes().read(b"abcdefg")
        >>> windows = Windows(Vocabulary.of_bytes(), text, torch.tensor([0, 3]), 3)
        >>> seen, wanted = windows.batch(torch.tensor([1]))
        >>> bytes(seen[0].tolist()), bytes(wanted[0].tolist())
        (b'def', b'efg')
    """

    vocabulary: Vocabulary
    tokens: Int32[Tensor, " tokens"]
    starts: Int64[Tensor, " windows"]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, chosen: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Some of the windows, and at each of their places the token that comes next."""
        places = self.starts[chosen][:, None] + torch.arange(self.length + 1)
        found = self.tokens[places].long()
        return found[:, :-1].contiguous(), found[:, 1:].contiguous()


def starts_of(sizes: list[int], length: int) -> Int64[Tensor, " windows"]:
    """Where windows begin in files that lie one after the other.

    Each token but the first of a file is an answer once; what is left at a file's end, less than a window, is
    not used.

    Example:
        >>> starts_of([7, 3, 5], 3).tolist()
        [0, 3, 10]
    """
    found, before = [], 0
    for size in sizes:
        found.append(before + torch.arange(max(0, size - 1) // length) * length)
        before += size
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)

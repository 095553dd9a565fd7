"""What language is: the cross entropy of the next token, judged by the perplexity.

    perplexity = exp(mean over all tokens of -log p(token | those before it in its window))

Perplexities of different tokenizers, or of windows of different lengths, do not compare.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.domains.language.texts import open_text
from secateur.domains.language.windows import Windows
from secateur.errors import RequestError
from secateur.train import distil
from secateur.train.figures import Figures
from secateur.train.parts import Data, Opening, Part, Parts
from secateur.train.task import Batch, Task, run_on, tasks
from secateur.user_code import is_file_word

LEAKED = 1e-3
"""How far a later token may move an answer of a causal network, as a share of the largest score."""


class Language(Task):
    """The next token of a text; batches are tokens, and at each of their places the token that follows."""

    noun = "sequences"
    lower_is_better = True

    def open(self, word: str, opening: Opening) -> Parts:
        """Open texts, or what a function in a file returns.

        Datasets of one's own yield pairs of tokens and of the tokens that follow, int64, of one length.
        """
        return super().open(word, opening) if is_file_word(word) else open_text(word, opening)

    def loss(self, model: nn.Module, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The cross entropy of the next token, in nats."""
        return {"cross entropy": _cross_entropy(output, batch, "mean")}

    def meter(self, model: nn.Module, part: Part) -> "PerplexityMeter":
        """Adds up the cross entropy of all tokens."""
        return PerplexityMeter()

    def distance(self, model: nn.Module, output: Any, wanted: Any, temperature: float) -> Tensor:
        """How far softened probabilities of the next token are apart: see `secateur.train.distil`."""
        ours, theirs = (logits_of(each).flatten(0, 1) for each in (output, wanted))
        if ours.shape != theirs.shape:
            what = f"the teacher tells {theirs.shape[1]} tokens apart, the student {ours.shape[1]}"
            raise RequestError(what, do="choose a teacher with the same tokenizer")
        return distil.soft_targets(ours, theirs, temperature)

    def require(self, model: nn.Module, part: Part, who: str = "model") -> None:
        """Refuse a network that does not fit the tokens, or that looks at those it is to say.

        Raises:
            RequestError: A later token changes an earlier answer, as in networks that fill in masked tokens.
        """
        super().require(model, part, who)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        tokens = self.inputs(next(iter(part.batches(2)))).to(device)
        if tokens.shape[1] < 2:
            return
        other = tokens.clone()
        other[:, -1] = (other[:, -1] + 1) % max(2, int(tokens.max()) + 1)
        with torch.no_grad():
            before, after = (logits_of(run_on(model, one))[:, :-1] for one in (tokens, other))
        if float((before - after).abs().max()) > LEAKED * float(before.abs().max()):
            raise RequestError(
                f"the {who} looks at later tokens: another last one changes its earlier answers",
                ["the task is to say the next token, which it would see"],
                "choose a causal language model, such as a class ...ForCausalLM of transformers",
            )

    def accept(self, output: Any, batch: Batch, part: Part) -> None:
        """Refuse answers that are no scores of the part's tokens at every place."""
        scores, tokens = logits_of(output), self.inputs(batch)
        if scores.shape[:2] != tokens.shape:
            what = f"the model returns {list(scores.shape)} for tokens of shape {list(tokens.shape)}"
            raise RequestError(what, do="return scores of the next token at every place")
        vocabulary = getattr(part, "vocabulary", None)
        if vocabulary is None:
            return
        width = scores.shape[2]
        if width < vocabulary.size or (width > vocabulary.size and not vocabulary.is_asked_for):
            what = f"the model tells {width:,} tokens apart, the text has {vocabulary.size:,}"
            raise RequestError(
                what,
                [f"the tokens are those of: {vocabulary.name}"],
                "name the model's own tokenizer, --data-arg tokenizer=FOLDER, or ask for tokenizer=bytes",
            )

    def recipe(self, data: Data) -> Mapping[str, Any]:
        """The training text and how it is read."""
        train = data.train
        if not isinstance(train, Windows):
            return {}
        text = hashlib.blake2b(train.tokens.numpy().tobytes(), digest_size=8).hexdigest()
        return {"length": train.length, "tokenizer": train.vocabulary.name, "text": text}

    def model_arguments(self, parts: Parts) -> Mapping[str, Any]:
        """How many tokens there are."""
        return {"vocab_size": parts.train.vocabulary.size} if isinstance(parts.train, Windows) else {}


tasks.add("language", Language())


class PerplexityMeter:
    """Adds up the cross entropy of every token.

    Example:
        >>> meter = PerplexityMeter()
        >>> meter.add(torch.zeros(2, 3, 10), (None, torch.zeros(2, 3, dtype=torch.long)))
        >>> print(meter.figures())
        perplexity 10, loss 2.303, accuracy 1
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.right = self.tokens = self.sequences = 0

    def add(self, output: Any, batch: Batch) -> None:
        """Take in a batch."""
        self.loss += float(_cross_entropy(output, batch, "sum"))
        self.right += int((logits_of(output).argmax(2) == batch[1]).sum())
        self.tokens += batch[1].numel()
        self.sequences += len(batch[1])

    def figures(self) -> Figures:
        """Perplexity, which decides, mean loss in nats, and the share of tokens that were said right."""
        if not self.tokens:
            raise RequestError("a part of the text is empty", do="pass more text")
        mean = self.loss / self.tokens
        perplexity = float(torch.tensor(mean, dtype=torch.float64).exp())  # infinite where math.exp gives up
        values = {"perplexity": perplexity, "loss": mean, "accuracy": self.right / self.tokens}
        return Figures(values, self.sequences, lower_is_better=True, details={"tokens": self.tokens})


def logits_of(output: Any) -> Float[Tensor, "n length tokens"]:
    """The scores of every token at every place, in single precision.

    Args:
        output: A tensor, a dict with `logits`, or an object with logits.

    Raises:
        RequestError: The model returns something else.

    Example:
        >>> logits_of({"logits": torch.zeros(2, 5, 7)}).shape
        torch.Size([2, 5, 7])
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor) or found.ndim != 3:
        told = list(found.shape) if isinstance(found, Tensor) else type(output).__name__
        what = f"the model returns {told}, no scores of tokens at every place"
        raise RequestError(what, do="return [sequences, length, tokens], alone or as `logits`")
    return found.float()


def _cross_entropy(output: Any, batch: Batch, reduction: str) -> Tensor:
    scores = logits_of(output)
    return F.cross_entropy(scores.flatten(0, 1), batch[1].flatten(), reduction=reduction)

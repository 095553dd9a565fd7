"""MiniLM, built by `transformers` from the package's configuration, and how similar its sentences are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from real_weights_runs.sentences import DISTRACTORS, PARAPHRASES, RETRIEVAL, SENTENCES

Batch = dict[str, Tensor]


class Tokeniser:
    """Sentences to the inputs of the model."""

    def __init__(self, folder: Path) -> None:
        self._tokenise = transformers.BertTokenizerFast.from_pretrained(folder)

    def __call__(self, sentences: Sequence[str]) -> Batch:
        """Pad to the longest sentence."""
        return dict(self._tokenise(list(sentences), padding=True, return_tensors="pt"))


def empty_encoder(folder: Path) -> transformers.BertModel:
    """The architecture of a folder, with random weights, in eval mode."""
    return transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).eval()


def load_encoder(folder: Path) -> transformers.BertModel:
    """The model of a folder with `config.json` and `model.safetensors`."""
    model = empty_encoder(folder)
    state = load_file(folder / "model.safetensors")
    state.pop("embeddings.position_ids", None)  # counts from 0; today's class makes it by itself
    model.load_state_dict(state)
    return model


@torch.inference_mode()
def embed(model: nn.Module, batch: Batch) -> Tensor:
    """Mean of the last hidden states over the tokens of each sentence, of length one."""
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden)
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


@dataclass(frozen=True)
class Meaning:
    """What an encoder makes of the sentences of the benchmark.

    Attributes:
        pairs: Cosine similarity of every two sentences.
        paraphrases: Mean similarity of the paraphrases.
        others: Mean similarity of all other pairs.
        answers: For each question the number of the passage it finds.
        paraphrases_found: Share of the paired sentences whose nearest neighbour is their paraphrase.
        questions_answered: Share of the questions that find their own passage.
    """

    pairs: Tensor
    paraphrases: float
    others: float
    answers: tuple[int, ...]
    paraphrases_found: float
    questions_answered: float

    @classmethod
    def of(cls, model: nn.Module, tokenise: Tokeniser) -> "Meaning":
        """Embed and compare."""
        vectors = embed(model, tokenise(SENTENCES))
        alike = vectors @ vectors.T
        paired = torch.arange(2 * len(PARAPHRASES))
        partner = paired ^ 1
        is_pair = torch.zeros_like(alike, dtype=torch.bool)
        is_pair[paired, partner] = True
        above = torch.ones_like(is_pair).triu(1)
        nearest = alike.clone().fill_diagonal_(-1)[: len(paired)].argmax(1)
        questions, passages = zip(*RETRIEVAL, strict=True)
        known = embed(model, tokenise([*passages, *DISTRACTORS]))
        answers = (embed(model, tokenise(questions)) @ known.T).argmax(1)
        return cls(
            pairs=alike[above],
            paraphrases=float(alike[is_pair & above].mean()),
            others=float(alike[~is_pair & above].mean()),
            answers=tuple(answers.tolist()),
            paraphrases_found=float((nearest == partner).double().mean()),
            questions_answered=float((answers == torch.arange(len(RETRIEVAL))).double().mean()),
        )

    def compare(self, dense: "Meaning") -> dict[str, float]:
        """How it agrees with the dense encoder."""
        same = [own == other for own, other in zip(self.answers, dense.answers, strict=True)]
        return {
            "pearson": float(pearson_corrcoef(self.pairs, dense.pairs)),
            "spearman": float(spearman_corrcoef(self.pairs, dense.pairs)),
            "same_answer": sum(same) / len(same),
            "questions_answered": self.questions_answered,
            "paraphrases_found": self.paraphrases_found,
            "paraphrases": self.paraphrases,
            "others": self.others,
        }

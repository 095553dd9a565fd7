"""A domain that the library has never heard of, tagging of tokens, goes through every command."""

import pytest

OWN = '''
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from secateur.train import Task


class Tagger(nn.Module):
    """Says of each token whether it is larger than the one before; a small recurrent network."""

    def __init__(self, width=12):
        super().__init__()
        self.embed = nn.Embedding(9, width)
        self.mix = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm1d(2 * width)
        self.read = nn.LSTM(2 * width, width, batch_first=True)
        self.tag = nn.Linear(width, 3)

    def forward(self, tokens):
        mixed = self.norm(self.mix(self.embed(tokens).transpose(1, 2))).relu()
        return self.tag(self.read(mixed.transpose(1, 2))[0])


class Tagging(Task):
    noun = "sentences"

    def loss(self, model, output, batch):
        return {"cross entropy": F.cross_entropy(output.flatten(0, 1), batch[1].flatten())}

    def scores(self, output, batch):
        return {"token accuracy": (output.argmax(-1) == batch[1]).float().mean(1)}


def sentences(count=400, length=8):
    tokens = torch.randint(9, (count, length), generator=torch.Generator().manual_seed(0))
    before = F.pad(tokens, (1, 0))[:, :-1]
    return TensorDataset(tokens, (tokens > before).long() + (tokens == before).long() * 2)
'''
FIGURE = "token accuracy"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def tag(run, place):
    """Run a command on the task and its data."""
    own = place / "own.py"

    def tagged(command, model, *words, save=None):
        word = f"{own}:{model}" if model == "Tagger" else f"{place / model}@{own}:Tagger"
        named = ("--task", f"{own}:Tagging", "--data", f"{own}:sentences", "--device", "cpu")
        outcome = run(command, word, *named, *words, *(("--save", place / save) if save else ()), "--json")
        assert outcome.code in (0, None), outcome.err
        return outcome.json

    return tagged


@pytest.fixture(scope="module")
def dense(tag):
    return tag("train", "Tagger", "--epochs", 12, "--lr", 0.5, "--schedule", "cosine", save="dense")


def test_train_and_evaluate_agree(tag, dense):
    assert dense[FIGURE] > 0.8  # the most frequent tag alone is right in half of the places
    judged = tag("evaluate", "dense")
    assert judged[FIGURE] == pytest.approx(dense[FIGURE])
    assert judged["sentences"] == 80
    assert judged["params"] == dense["params"]


def test_prune_by_gradients_of_its_loss_and_finetune(tag, dense):
    cut = tag("prune", "dense", "--macs", 0.6, "--criterion", "taylor", save="cut")
    assert cut["verdict"] in ("exact", "renormalised")
    assert cut["after"]["macs"] <= 0.6 * cut["before"]["macs"]
    before = tag("evaluate", "cut")[FIGURE]
    tuned = tag("finetune", "cut", "--epochs", 6, "--lr", 0.2, save="tuned")
    assert tuned[FIGURE] > before
    assert tuned[f"validation_{FIGURE}"] >= tuned[f"validation_{FIGURE}_before"]


def test_sweep_zeroes_channels_of_its_layers(tag, dense):
    words = (
        "--ratios",
        0.5,
        "--by",
        "layers,groups",
        "--layer",
        "mix",
        "--counts",
        "4,24",
        "--score-images",
        64,
    )
    found = tag("sweep", "dense", *words, save="sweep")
    assert found["rows"][0][FIGURE] == pytest.approx(dense[FIGURE])
    assert found["rows"][-1][FIGURE] < found["rows"][0][FIGURE]
    assert found["groups"].keys() >= {"mix"}


def test_iterate_holds_its_figure(tag, dense):
    words = (
        "--ratio",
        0.5,
        "--steps",
        2,
        "--epochs",
        2,
        "--lr",
        0.2,
        "--criterion",
        "taylor",
        "--recover",
        "none",
    )
    found = tag("iterate", "dense", *words, save="steps")
    assert [row["stage"] for row in found["rows"]] == ["cut", "tuned"] * 2
    assert all(0 < row[FIGURE] <= 1 for row in found["rows"])
    assert found["after"]["params"] < found["before"]["params"]


def test_slim_and_report(run, tag, place):
    words = ("--epochs", 2, "--finetune-epochs", 1, "--s", 0.01, "--ratio", 0.4, "--lr", 0.3)
    found = tag("slim", "Tagger", *words, save="slim")
    assert found["finetuned"]["params"] < found["dense"]["params"]
    assert FIGURE in found["finetuned"]
    told = run("report", place / "slim" / "report.json", "--out", place / "report.md")
    assert told.code in (0, None), told.err
    assert "own.py" in (place / "report.md").read_text()

"""Language: texts in files, windows, the loss, the perplexity, and the commands on all of it."""

import copy
import json
import math
import shlex
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.cli import main
from secateur.domains.language import Language, PerplexityMeter, Vocabulary, open_text
from secateur.errors import RequestError
from secateur.sweep import sensitivity
from secateur.train import FitConfig, Opening, Work, as_parts, fit, judge

WORDS = "the cat sat on the mat and the dog sat on the log; "


class Net(nn.Module):
    """A causal network: each place sees the token there and the two before it."""

    def __init__(self, tokens=256, width=16, seen=2):
        super().__init__()
        self.seen = seen
        self.embedding = nn.Embedding(tokens, 8)
        self.one, self.two = nn.Conv1d(8, width, 3), nn.Linear(width, tokens)

    def forward(self, tokens):
        held = self.embedding(tokens).transpose(1, 2)
        held = self.one(F.pad(held, (self.seen, 2 - self.seen))).relu()
        return {"logits": self.two(held.transpose(1, 2))}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(WORDS * 40)
    return path


def opened(word, **options):
    return open_text(f"text:{word}", Opening(options=options))


def test_each_token_but_the_first_is_an_answer_once_and_windows_stay_in_their_file(tmp_path):
    for name, text in (("a.txt", "abcdefgh"), ("b.txt", "ABCDEFGHIJ" * 3)):
        (tmp_path / name).write_text(text)
    parts = opened(f"{tmp_path}/a.txt,{tmp_path}/b.txt", length=3)
    seen = [batch for part in (parts.train, parts.validation, parts.test) for batch in part.batches(2)]
    pairs = [(bytes(one), bytes(two)) for batch in seen for one, two in torch.stack(batch, 1).tolist()]
    assert pairs[:3] == [(b"abc", b"bcd"), (b"def", b"efg"), (b"ABC", b"BCD")]
    assert b"".join(two for _, two in pairs[2:]) == (b"ABCDEFGHIJ" * 3)[1:28]
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [8, 1, 2]


def test_parts_are_named_by_their_files_and_are_the_same_text_for_every_seed(tmp_path, book):
    for part in ("train", "valid", "test"):
        (tmp_path / f"wiki.{part}.tokens").write_text(part * 20)
    parts = opened(f"{tmp_path}/wiki.*.tokens", length=4)
    assert bytes(parts.validation.batch(torch.tensor([0]))[0][0].tolist()) == b"vali"
    assert bytes(parts.test.batch(torch.tensor([0]))[0][0].tolist()) == b"test"
    one, two = (open_text(f"text:{book}", Opening(seed=seed)) for seed in (0, 1))
    assert torch.equal(one.test.starts, two.test.starts)
    assert one.train.starts.max() < one.validation.starts.min() < one.test.starts.min()


@pytest.mark.parametrize(
    ("word", "options", "said"),
    [
        ("text:none.txt", {}, "no file none.txt"),
        ("book.txt", {}, "'book.txt' is no text"),
        ("text:", {}, "is no text"),
        ("text:.", {"length": 0}, "length is 0"),
        ("text:.", {"length": 3000}, "too short: its train part has"),
        ("text:.", {"size": 3}, "size is no option of texts"),
        ("text:.", {"tokenizer": "nowhere"}, "no folder nowhere"),
        ("text:.", {"tokenizer": "."}, "holds no tokenizer"),
        ("text:book.txt,a.test.txt", {}, "texts for some parts only"),
        ("text:a.test.txt", {}, "texts for some parts only"),
        ("text:empty", {}, "no .txt file in empty"),
    ],
)
def test_what_cannot_be_opened_is_said(book, monkeypatch, word, options, said):
    monkeypatch.chdir(book.parent)
    if "a.test" in word:
        (book.parent / "a.test.txt").write_text(WORDS)
    (book.parent / "empty").mkdir()
    with pytest.raises(RequestError, match=said.replace("(", r"\(")):
        Language().open(word, Opening(options=options))


def test_a_tokenizer_of_a_folder_makes_the_tokens(book, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    known = {
        word: number for number, word in enumerate(["?", *sorted(set(WORDS.replace(";", " ;").split()))])
    }
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(tmp_path / "tok")
    parts = opened(book, length=8, tokenizer=str(tmp_path / "tok"))
    vocabulary = parts.train.vocabulary
    assert vocabulary.size == len(known)
    words = ["the", "cat", "sat"]
    assert parts.train.batch(torch.tensor([0]))[0][0, :3].tolist() == [known[word] for word in words]
    book.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="no text in UTF-8"):
        opened(book, tokenizer=str(tmp_path / "tok"))
    task = Language()
    task.require(Net(len(known) + 5), parts.train)  # rows that pad an embedding
    with pytest.raises(RequestError, match="does not accept sequences"):
        task.require(Net(len(known) - 1), parts.train)


def test_bytes_are_for_networks_of_256_tokens_unless_asked_for(book):
    task, parts = Language(), opened(book, length=8)
    task.require(Net(), parts.train)
    with pytest.raises(RequestError, match="tells 300 tokens apart, the text has 256"):
        task.require(Net(300), parts.train)
    task.require(Net(300), opened(book, length=8, tokenizer="bytes").train)


def test_a_network_that_sees_what_it_is_to_say_is_refused(book):
    with pytest.raises(RequestError, match="the teacher looks at later tokens"):
        Language().require(Net(seen=1), opened(book, length=8).train, "teacher")


def test_the_perplexity_is_that_of_all_tokens_however_they_are_batched(book):
    torch.manual_seed(0)
    work, model = Work(Language(), opened(book, length=16)), Net().eval()
    found = [judge(model, work.test, work.task, batch_size=size, device="cpu") for size in (3, 100)]
    inputs, wanted = work.test.batch(torch.arange(len(work.test)))
    loss = F.cross_entropy(model(inputs)["logits"].flatten(0, 1).double(), wanted.flatten()).item()
    for one in found:
        assert one.name == "perplexity"
        assert one.values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        assert one.lower_is_better
        assert one.count == len(work.test)
        assert one.details["tokens"] == 16 * one.count
    meter = PerplexityMeter()
    meter.add(torch.tensor([[[0.0, -1e9]]]), (None, torch.tensor([[1]])))
    assert meter.figures().deciding == math.inf


def test_it_agrees_with_the_loss_of_transformers(book):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=256, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model, part = transformers.GPT2LMHeadModel(config).eval(), opened(book, length=15).test
    inputs, wanted = part.batch(torch.arange(4))
    whole = torch.cat([inputs, wanted[:, -1:]], 1)
    ours = Language().loss(model, model(inputs), (inputs, wanted))["cross entropy"]
    assert ours.item() == pytest.approx(model(whole, labels=whole).loss.item(), rel=1e-5)


def test_a_run_goes_on_with_the_same_text_alone(book, tmp_path):
    asked = {"save": tmp_path / "run", "quiet": True, "device": "cpu"}
    torch.manual_seed(0)
    model, task = Net(), Language()
    fit(model, opened(book, length=16), FitConfig(epochs=1, **asked), task=task)
    book.write_text(WORDS.upper() * 40)
    with pytest.raises(RequestError, match="text"):
        fit(model, opened(book, length=16), FitConfig(epochs=2, resume=True, **asked), task=task)


def test_datasets_of_ones_own_and_a_teacher(book):
    pairs = [(torch.arange(4) + at, torch.arange(4) + at + 1) for at in range(40)]
    work = Work(Language(), as_parts("counting", pairs))
    torch.manual_seed(0)
    model = fit(
        Net(), work.parts, FitConfig(epochs=3, lr=0.5, quiet=True, device="cpu"), task=work.task
    ).model
    cut = sc.prune(
        model, work.example, ratio=0.25, criterion=work.criterion(model, "taylor"), data=work.evidence(16)
    )
    assert cut.verdict.exact
    assert cut.plan.keep["one"]
    outputs = [model(work.example), cut.model(work.example)]
    assert work.task.distance(model, outputs[0], outputs[0], 2.0).item() == pytest.approx(0, abs=1e-6)
    assert work.task.distance(model, outputs[1], outputs[0], 2.0).item() > 0
    with pytest.raises(RequestError, match="teacher tells 9 tokens apart, the student 256"):
        work.task.distance(model, outputs[0], torch.zeros(1, 4, 9), 2.0)


def test_a_sweep_takes_models_that_return_a_cache(book):
    """What only the next call takes is no answer; its empty beginning belongs to no batch."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=256,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, work = transformers.LlamaForCausalLM(config).eval(), Work(Language(), opened(book, length=8))
    name = "model.layers.0.mlp.up_proj"
    swept = sensitivity(
        model, work.test, (0.5,), task=work.task, layers=[name], criterion="l2", device="cpu", batch_size=8
    )
    dense, half = swept.by_layer[name]
    assert dense.value == pytest.approx(judge(model, work.test, work.task, device="cpu").deciding, rel=1e-5)
    zeroed = copy.deepcopy(model)
    weight = zeroed.get_submodule(name).weight
    weight.data[weight.detach().double().square().sum(1).argsort()[:8]] = 0
    assert half.value == pytest.approx(judge(zeroed, work.test, work.task, device="cpu").deciding, rel=1e-4)


@pytest.mark.slow
def test_every_command_takes_texts(book, tmp_path, monkeypatch, capsys):
    """A small Llama from a folder: train, prune by gradients, recover, fine-tune, sweep, iterate, report."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=256,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained("llama")

    def secateur(line):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line))
        assert not end.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    data = "--task language --data text:book.txt --data-arg length=16 --device cpu"
    told = secateur(
        f"train hf:llama {data} --epochs 5 --batch-size 16 --optimizer adamw --lr 0.01 --save dense --json"
    )
    dense = json.loads(told)
    assert dense["perplexity"] < 100
    told = secateur(
        f"prune dense {data} --macs 0.7 --criterion taylor --recover absorb,refit --images 64 --save cut"
    )
    assert "check:" in told
    assert "masked == cut" in told
    secateur(f"finetune cut {data} --epochs 1 --lr 0.001 --teacher dense --save tuned")
    assert "perplexity" in secateur(f"evaluate tuned {data}")
    assert "sensitivity of" in secateur(f"sweep dense {data} --ratios 0.5 --score-images 32 --save sweep")
    assert "step-02 tuned" in secateur(f"iterate dense {data} --ratio 0.3 --steps 2 --epochs 1 --save steps")
    secateur("report steps --out steps.html")
    assert "perplexity" in (tmp_path / "steps.html").read_text()


def test_without_its_extra_a_tokenizer_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError, match=r"pip install 'secateur\[language\]'"):
        Vocabulary.of(str(tmp_path))

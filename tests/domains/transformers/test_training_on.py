"""Cut models, also read back from their folders, in transformers and peft: train, save, generate."""

import copy
import functools
import os

import pytest
import torch
from torch.utils.data import Dataset

import secateur as sc
from secateur.domains.transformers.folder import write_folder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": None,
}
TOKENS = {"input_ids": torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))}
KINDS = ["llama", "bert"]
WAYS = ["uniform", "uneven"]


def tiny(kind):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **TINY)
    auto = "AutoModelForCausalLM" if kind == "llama" else "AutoModelForSequenceClassification"
    return getattr(transformers, auto).from_config(config).eval()


@functools.cache
def proven(kind, way):
    result = sc.prune(tiny(kind), TOKENS, ratio=0.4, uniform=way == "uniform")
    assert result.verdict.passed
    return result.model


def cut(kind, way):
    return copy.deepcopy(proven(kind, way))


def written(model, folder):
    """The folder that `sc.export` writes; it is read back here, not in a fresh process."""
    write_folder(copy.deepcopy(model), folder)
    return folder


def opened(folder, kind):
    """The folder as a user opens it; `trust_remote_code` is no harm where there is no code."""
    auto = "AutoModelForCausalLM" if kind == "llama" else "AutoModelForSequenceClassification"
    model, told = getattr(transformers, auto).from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.fixture(autouse=True)
def modules_of_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


class Rows(Dataset):
    """Random texts; the label is the text itself, or whether its first token is even."""

    def __init__(self, kind):
        self.texts = torch.randint(3, 61, (16, 9), generator=torch.Generator().manual_seed(0))
        self.labels = self.texts if kind == "llama" else self.texts[:, 0] % 2

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, at):
        return {"input_ids": self.texts[at], "labels": self.labels[at]}


def trainer(model, kind, folder, **words):
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=8,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **words,
    )
    return transformers.Trainer(model, arguments, train_dataset=Rows(kind))


def shapes(model):
    return {name: tuple(held.shape) for name, held in model.named_parameters()}


def losses(made):
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def logits(model):
    return model.eval()(**TOKENS).logits.detach()


def of_both(test):
    return pytest.mark.parametrize("kind", KINDS)(pytest.mark.parametrize("way", WAYS)(test))


@of_both
def test_the_trainer_keeps_the_cut_and_resumes_it(kind, way, tmp_path):
    pytest.importorskip("accelerate")
    made = trainer(cut(kind, way), kind, tmp_path / "runs")
    made.train()
    assert losses(made)[-1] < losses(made)[0]
    assert shapes(made.model) == shapes(proven(kind, way))
    again = trainer(cut(kind, way), kind, tmp_path / "runs")
    again.train(resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-4"))
    assert again.state.global_step == 8
    assert torch.equal(logits(again.model), logits(made.model))
    folder = written(made.model, tmp_path / "trained")
    assert (folder / "modeling_cut.py").is_file() == (way == "uneven")
    assert torch.equal(logits(opened(folder, kind)), logits(made.model))


@of_both
def test_checkpoints_of_a_folder_that_was_read_back_are_such_folders(kind, way, tmp_path):
    pytest.importorskip("accelerate")
    folder = written(cut(kind, way), tmp_path / "cut")
    made = trainer(opened(folder, kind), kind, tmp_path / "runs")
    made.train()
    assert losses(made)[-1] < losses(made)[0]
    assert shapes(made.model) == shapes(proven(kind, way))
    last = opened(tmp_path / "runs" / "checkpoint-8", kind)
    assert shapes(last) == shapes(made.model)
    assert torch.equal(logits(last), logits(made.model))


def test_what_training_sets_in_the_config_is_in_the_folder(tmp_path):
    made = trainer(cut("llama", "uniform"), "llama", tmp_path / "runs")
    assert made.model.config.use_cache is False  # by the trainer
    again = opened(written(made.model, tmp_path / "cut"), "llama")
    assert again.config.use_cache is False
    assert len({id(part.config) for part in made.model.modules() if hasattr(part, "config")}) == 1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@of_both
def test_lora_trains_merges_and_reloads_on_a_folder_that_was_read_back(kind, way, tmp_path):
    peft = pytest.importorskip("peft")
    folder = written(cut(kind, way), tmp_path / "cut")
    names = ["q_proj", "down_proj"] if kind == "llama" else ["query", "dense"]
    adapted = peft.get_peft_model(opened(folder, kind), peft.LoraConfig(target_modules=names, r=4))
    plain, rows, found = logits(adapted), Rows(kind), []
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    optimizer = torch.optim.Adam([one for one in adapted.parameters() if one.requires_grad], lr=0.01)
    for _ in range(6):
        loss = adapted.train()(input_ids=rows.texts, labels=rows.labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    trained = logits(adapted)
    assert not torch.allclose(trained, plain)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(opened(folder, kind), tmp_path / "adapter")
    assert torch.equal(logits(again), trained)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(opened(written(merged, tmp_path / "merged"), kind)), logits(merged))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # older releases know this name
@of_both
def test_gradients_are_the_same_with_checkpointing(kind, way):
    def gradients(is_checkpointed):
        model, ran = cut(kind, way).train(), []
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        inner = next(part for name, part in model.named_modules() if name.endswith(("mlp", "intermediate")))
        inner.register_forward_pre_hook(lambda *_: ran.append(1))
        model(**TOKENS, labels=Rows(kind).labels[:2]).loss.backward()
        return len(ran), {name: held.grad for name, held in model.named_parameters()}

    (once, plain), (twice, checkpointed) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)  # its forward was computed anew on the way back
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=lambda told, at=name: f"{at}: {told}")


@pytest.mark.parametrize("way", WAYS)
def test_generate_agrees_with_and_without_cache_batch_and_beams(way, tmp_path):
    ids = TOKENS["input_ids"][:, :6]
    mask = torch.ones_like(ids)
    words = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    made = cut("llama", way)
    for model in (made, opened(written(made, tmp_path / "cut"), "llama")):
        cached = model.generate(ids, attention_mask=mask, **words)
        assert cached.shape == (2, 14)
        assert torch.equal(model.generate(ids, attention_mask=mask, use_cache=False, **words), cached)
        rows = [model.generate(row[None], attention_mask=mask[:1], **words) for row in ids]
        assert torch.equal(torch.cat(rows), cached)
        beams = [
            model.generate(ids, attention_mask=mask, num_beams=3, use_cache=is_cached, **words)
            for is_cached in (True, False)
        ]
        assert torch.equal(*beams)
        left = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], dim=1)
        padded = model.generate(left, attention_mask=(left > 0).long(), **words)
        assert torch.equal(padded[:, 3:], cached)

"""MiniLM with its trained weights: what pruning does to the similarities of sentences."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import secateur as sc
from real_weights_runs.detection_run import costs, paired_latency
from real_weights_runs.encoder import Meaning, Tokeniser, embed, empty_encoder, load_encoder
from real_weights_runs.fetch import MINILM, fetch
from real_weights_runs.sentences import CALIBRATION, DISTRACTORS, PARAPHRASES, RETRIEVAL, SENTENCES

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SETTINGS = (
    {"criterion": "l2", "scope": "global"},
    {"criterion": "l2", "scope": "local"},
    {"criterion": "l2", "scope": "local", "axes": "widths"},
    {"criterion": "random", "scope": "local"},
)
BUDGETS = ({"params": 0.9}, {"macs": 0.5})
DROPPED = (1, 2, 3)
EXAMPLES = 4
"""Sentences of the batch that the model is recorded on; its MACs and latency are those of this batch."""
SAVED = 0.2


class Bench:
    """The dense encoder and what it makes of the sentences."""

    def __init__(self, cache: Path) -> None:
        self.folder = fetch(MINILM, cache)
        self.tokenise = Tokeniser(self.folder)
        self.model = load_encoder(self.folder)
        self.example = self.tokenise(SENTENCES[:EXAMPLES])
        self.data = [self.tokenise(CALIBRATION)]
        self.meaning = Meaning.of(self.model, self.tokenise)

    def judge(self, model: torch.nn.Module) -> dict[str, float]:
        """Compare a model with the dense one."""
        return Meaning.of(model, self.tokenise).compare(self.meaning)


def run_encoder(cache: Path) -> dict[str, Any]:
    """Everything that is measured on MiniLM."""
    bench = Bench(cache)
    cost = sc.measure(bench.model, bench.example)
    embeddings = sum(parameter.numel() for parameter in bench.model.embeddings.parameters())
    return {
        "sentences": len(SENTENCES),
        "pairs": len(bench.meaning.pairs),
        "paraphrases": len(PARAPHRASES),
        "questions": len(RETRIEVAL),
        "passages": len(RETRIEVAL) + len(DISTRACTORS),
        "calibration": len(CALIBRATION),
        "example": list(bench.example["input_ids"].shape),
        "params": cost.params,
        "embedding_params": embeddings,
        "macs": cost.macs,
        "dense": bench.judge(bench.model),
        "rows": [*sweep(bench), *budgets(bench), *dropped(bench)],
        "saved": save_and_load(bench),
    }


def timed(what: str, call: Callable[[], sc.Result]) -> tuple[sc.Result, dict[str, Any]]:
    """One call of the library, and what it reports."""
    start = time.process_time()
    result = call()
    seconds = time.process_time() - start
    print(f"minilm {what}: {result.verdict}", file=sys.stderr, flush=True)
    return result, {"cpu_seconds": round(seconds, 2), **costs(result), **parts_left(result.plan)}


def parts_left(plan: sc.Plan) -> dict[str, list[int]]:
    """Heads and widths that are left, each with what there was; none for a plan that cuts no channels."""
    words = {"heads": ("attention.self.query", 12), "mlp_width": ("intermediate.dense", 1536)}
    left: dict[str, list[int]] = {}
    for part, (ending, size) in words.items():
        groups = [group for group in plan.groups if group.name.endswith(ending) and group.size == size]
        left[part] = [sum(len(group.keep) for group in groups), sum(group.size for group in groups)]
    return left


def sweep(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every ratio with every setting; the default one also recovered."""
    for setting in SETTINGS:
        for ratio in RATIOS:
            key = {"budget": "ratio", "value": ratio, "axes": "heads", **setting}
            result, row = timed(
                f"ratio={ratio} {setting}",
                lambda ratio=ratio, setting=setting: sc.prune(
                    bench.model, bench.example, ratio=ratio, **setting
                ),
            )
            if setting is SETTINGS[0]:
                row |= paired_latency(bench.model, result.model, bench.example)
            yield key | row | {"recover": "none"} | bench.judge(result.model)
            if setting is SETTINGS[0]:
                refitted = sc.recover(result, bench.data, ["absorb", "refit"]).model
                yield (
                    key | row | {"recover": "absorb"} | bench.judge(sc.recover(result, steps="absorb").model)
                )
                yield key | row | {"recover": "refit, other sentences"} | bench.judge(refitted)


def budgets(bench: Bench) -> Iterator[dict[str, Any]]:
    """Budgets of parameters and MACs instead of a ratio."""
    for budget in BUDGETS:
        ((kind, value),) = budget.items()
        result, row = timed(str(budget), lambda budget=budget: sc.prune(bench.model, bench.example, **budget))
        key = {"budget": kind, "value": value, "criterion": "l2", "scope": "global", "axes": "heads"}
        yield key | row | {"recover": "none"} | bench.judge(result.model)


def dropped(bench: Bench) -> Iterator[dict[str, Any]]:
    """Whole layers instead of channels."""
    for count in DROPPED:
        result, row = timed(
            f"drop {count}", lambda count=count: sc.drop_blocks(bench.model, bench.example, count=count)
        )
        row |= paired_latency(bench.model, result.model, bench.example)
        key = {"budget": "blocks", "value": count, "criterion": "l2", "dropped": list(result.plan.dropped)}
        yield key | row | {"recover": "none"} | bench.judge(result.model)


def save_and_load(bench: Bench) -> dict[str, Any]:
    """Save a pruned encoder, load it into the untouched architecture, and compare what both compute."""
    result = sc.prune(bench.model, bench.example, ratio=SAVED)
    with tempfile.TemporaryDirectory() as folder:
        sc.save(result, folder)
        loaded = sc.load(folder, empty_encoder(bench.folder)).eval()
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    batch = bench.tokenise(SENTENCES)
    same = torch.equal(embed(loaded, batch), embed(result.model, batch))
    original = (bench.folder / "model.safetensors").stat().st_size
    return {"ratio": SAVED, "bit_equal": same, "original_bytes": original, "file_bytes": sizes}

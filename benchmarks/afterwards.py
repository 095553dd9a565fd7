"""What people call on a network after it was cut: is it right, wrong, or does it raise?

Attributes that hold a width are compared with the width that the cut network has, methods are run. Each
answer is one of "right", "wrong: ..." and "raises ...". The networks have random weights and are cut by 30 %
of the channels of every group.

    python benchmarks/afterwards.py --only "timm:*"    # runs what is missing, then writes the page
    python benchmarks/afterwards.py --page             # writes the page from the results
"""

# ruff: noqa: D103 - the name of a call says what it is

import argparse
import copy
import fnmatch
import json
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

RESULTS = Path("benchmarks/results/afterwards.json")
PAGE = Path("docs/benchmarks/afterwards.md")
LIMIT_S = 500
NEW = ("feature_info.", "config.")
"""Attributes of plans that were added for this page."""


TIMM = {
    "resnet18": 64, "resnext26ts": 64, "seresnext26ts": 64, "densenet121": 64, "vgg11": 64, "dla34": 64,
    "mobilenetv2_035": 64, "mobilenetv3_small_050": 64, "mobilenetv4_conv_small": 64, "efficientnet_b0": 64,
    "mixnet_s": 64, "ghostnet_050": 64, "repghostnet_050": 64, "mobileone_s0": 64, "repvgg_a0": 64,
    "repvit_m0_9": 64, "fastvit_t8": 64, "starnet_s1": 64, "rexnet_100": 64, "regnetx_002": 64,
    "regnety_002": 64, "ese_vovnet19b_dw": 64,
    "convnext_atto": 64, "convnextv2_atto": 64, "edgenext_xx_small": 64, "mobilevit_xxs": 64,
    "poolformer_s12": 64, "pvt_v2_b0": 64,
    "vit_tiny_patch16_224": 224, "pit_ti_224": 224,
    "mixer_s32_224": 224, "levit_128s": 224, "swin_tiny_patch4_window7_224": 224,
    "inception_next_atto": 64, "hgnetv2_b0": 64,
}  # fmt: skip
TORCHVISION = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vgg11", "googlenet")
ULTRALYTICS = ("yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n")
HF = ("bert", "gpt2", "llama", "opt", "t5", "vit")

Check = Callable[[nn.Module, Any], None]


class WrongError(Exception):
    """A call ran and gave something else than it should."""


def equal(got: Any, expected: Any, what: str) -> None:
    """Compare two numbers or shapes."""
    if got != expected:
        raise WrongError(f"{what} is {got}, the network has {expected}")


def close(one: torch.Tensor, other: torch.Tensor, what: str) -> None:
    """Compare two outputs."""
    equal(tuple(one.shape), tuple(other.shape), f"shape of {what}")
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())):
        raise WrongError(f"{what} gives other numbers")


def channels(model: nn.Module, features: torch.Tensor) -> int:
    """The width of feature maps or tokens, whichever side of the positions it stands on."""
    if features.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC":
        return features.shape[-1]
    return features.shape[1] if features.ndim == 4 else features.shape[-1]


def pooled(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the classifier reads."""
    return model.forward_head(model.forward_features(x), pre_logits=True)


# ---- timm


def num_features(model: nn.Module, x: torch.Tensor) -> None:
    equal(model.num_features, channels(model, model.forward_features(x)), "num_features")


def head_hidden_size(model: nn.Module, x: torch.Tensor) -> None:
    equal(model.head_hidden_size, pooled(model, x).shape[-1], "head_hidden_size")


def embed_dim(model: nn.Module, x: torch.Tensor) -> None:
    width = model.embed_dim[-1] if isinstance(model.embed_dim, (tuple, list)) else model.embed_dim
    equal(width, channels(model, model.forward_features(x)), "embed_dim")


def features_then_head(model: nn.Module, x: torch.Tensor) -> None:
    close(model.forward_head(model.forward_features(x)), model(x), "forward_head(forward_features(x))")


def get_classifier(model: nn.Module, x: torch.Tensor) -> None:
    found = model.get_classifier()
    for part in found if isinstance(found, (tuple, list)) else [found]:
        width = getattr(part, "in_features", None) or part.in_channels
        equal(part.weight.shape[1], width, "width of the classifier")


def reset_classifier(model: nn.Module, x: torch.Tensor) -> None:
    model.reset_classifier(7)
    equal(tuple(model(x).shape), (len(x), 7), "shape after reset_classifier(7)")


def reset_to_none(model: nn.Module, x: torch.Tensor) -> None:
    model.reset_classifier(0)
    equal(model(x).shape[-1], model.head_hidden_size, "width after reset_classifier(0)")


def feature_info(model: nn.Module, x: torch.Tensor) -> None:
    seen: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim >= 3:
                seen[name] = channels(model, output)  # the last call counts

        return hook

    named = dict(model.named_modules())
    listed = [one for one in model.feature_info if one["module"] in named]
    handles = [named[one["module"]].register_forward_hook(watch(one["module"])) for one in listed]
    model(x)
    for handle in handles:
        handle.remove()
    for one in listed:
        if one["module"] in seen:
            equal(one["num_chs"], seen[one["module"]], f"feature_info of {one['module']}")


def forward_intermediates(model: nn.Module, x: torch.Tensor) -> None:
    last, maps = model.forward_intermediates(x)
    close(last, model.forward_features(x), "the last of forward_intermediates")
    equal(len(maps) > 0, True, "number of maps")


def reparameterize(model: nn.Module, x: torch.Tensor) -> None:
    from timm.utils.model import reparameterize_model

    expected = model(x)
    close(reparameterize_model(model)(x), expected, "the reparameterized network")


def grad_checkpointing(model: nn.Module, x: torch.Tensor) -> None:
    expected = model(x)
    model.set_grad_checkpointing()
    close(model(x), expected, "the network with gradient checkpointing")


# ---- torchvision


def new_head(model: nn.Module, x: torch.Tensor) -> None:
    parent, name = (
        (model, "fc") if hasattr(model, "fc") else (model.classifier, str(len(model.classifier) - 1))
    )
    old = getattr(parent, name)
    setattr(parent, name, nn.Linear(old.in_features, 7))
    equal(tuple(model(x).shape), (len(x), 7), "shape with a new head")


def last_channel(model: nn.Module, x: torch.Tensor) -> None:
    head = model.fc if hasattr(model, "fc") else model.classifier[-1]
    equal(model.last_channel, head.in_features, "last_channel")


# ---- ultralytics


def fuse(model: nn.Module, x: torch.Tensor) -> None:
    expected = first(model(x))
    close(first(model.fuse(verbose=False)(x)), expected, "the fused network")


def forward_split(model: nn.Module, x: torch.Tensor) -> None:
    expected, blocks = first(model(x)), [one for one in model.modules() if hasattr(one, "forward_split")]
    for block in blocks:
        block.forward = block.forward_split
    close(first(model(x)), expected, "forward_split")


def c2f_width(model: nn.Module, x: torch.Tensor) -> None:
    for name, block in model.named_modules():
        if hasattr(block, "forward_split") and hasattr(block, "cv1"):
            equal(2 * block.c, block.cv1.conv.out_channels, f"2 * {name}.c")


def first(output: Any) -> torch.Tensor:
    """The first tensor of an output."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


# ---- transformers


def resize_embeddings(model: nn.Module, x: dict[str, torch.Tensor]) -> None:
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model(**x)
    equal(model.get_input_embeddings().weight.shape[0], model.config.vocab_size, "number of embeddings")


def embedding_dim(model: nn.Module, x: dict[str, torch.Tensor]) -> None:
    table = model.get_input_embeddings()
    if hasattr(table, "embedding_dim"):
        equal(table.embedding_dim, table.weight.shape[1], "embedding_dim")


def intermediate_size(model: nn.Module, x: dict[str, torch.Tensor]) -> None:
    widths = {
        part.weight.shape[0]
        for name, part in model.named_modules()
        if name.rpartition(".")[2] in ("fc1", "up_proj", "wi") or name.endswith("intermediate.dense")
    }
    config = model.config
    names = ("intermediate_size", "ffn_dim", "d_ff", "n_inner")
    told = next((value for name in names if (value := getattr(config, name, None)) is not None), None)
    if told is None:
        raise WrongError("the config tells no width: readers take 4 * hidden_size")
    equal({told}, widths, "the config's width of the feed-forward layers")


def saved_and_read(model: nn.Module, x: dict[str, torch.Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        close(first(type(model).from_pretrained(folder)(**x)), first(model(**x)), "from_pretrained")


CHECKS: dict[str, tuple[Check, ...]] = {
    "timm": (
        num_features, head_hidden_size, embed_dim, features_then_head, get_classifier, reset_classifier,
        reset_to_none, feature_info, forward_intermediates, reparameterize, grad_checkpointing,
    ),
    "torchvision": (new_head, last_channel),
    "ultralytics": (fuse, forward_split, c2f_width),
    "hf": (resize_embeddings, embedding_dim, intermediate_size, saved_and_read),
}  # fmt: skip
_NEEDS = {
    "num_features": "num_features", "head_hidden_size": "head_hidden_size", "embed_dim": "embed_dim",
    "feature_info": "feature_info", "forward_intermediates": "forward_intermediates",
    "features_then_head": "forward_head", "get_classifier": "get_classifier",
    "reset_classifier": "reset_classifier", "reset_to_none": "head_hidden_size",
    "grad_checkpointing": "set_grad_checkpointing", "last_channel": "last_channel",
    "resize_embeddings": "lm_head",
}  # fmt: skip


def build(word: str) -> tuple[nn.Module, Any]:
    """A network with random weights and inputs for it."""
    kind, _, name = word.partition(":")
    if kind == "timm":
        import timm

        return timm.create_model(name, num_classes=10), torch.randn(2, 3, TIMM[name], TIMM[name])
    if kind == "torchvision":
        import torchvision

        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, num_classes=10, **more), torch.randn(
            2, 3, 64, 64
        )
    if kind == "ultralytics":
        from ultralytics.nn.tasks import DetectionModel

        return DetectionModel(f"{name}.yaml", nc=4, verbose=False), torch.randn(1, 3, 64, 64)
    return _of_transformers(name)


def _of_transformers(name: str) -> tuple[nn.Module, Any]:
    import transformers as hf

    tokens = {"input_ids": torch.arange(12)[None]}
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**sizes, intermediate_size=48)), tokens
    if name == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)), tokens
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, intermediate_size=48)), tokens
    if name == "opt":
        return hf.OPTForCausalLM(hf.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32)), tokens
    if name == "t5":
        config = hf.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        return hf.T5ForConditionalGeneration(config), {**tokens, "decoder_input_ids": torch.arange(6)[None]}
    config = hf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32
    )
    return hf.ViTForImageClassification(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


def words(pattern: str) -> Iterator[str]:
    """The networks that a pattern fits."""
    every = [f"timm:{name}" for name in TIMM] + [f"torchvision:{name}" for name in TORCHVISION]
    every += [f"ultralytics:{name}" for name in ULTRALYTICS] + [f"hf:{name}" for name in HF]
    return (word for word in every if fnmatch.fnmatchcase(word, pattern))


def answer(check: Check, model: nn.Module, inputs: Any) -> str:
    """What became of one call."""
    try:
        with torch.no_grad():
            check(copy.deepcopy(model).eval(), inputs)
    except TimeoutError:
        raise
    except WrongError as error:
        return f"wrong: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
        return f"raises {type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
    return "right"


def look_at(word: str) -> dict[str, Any]:
    """Cut a network and call what people call; what the uncut one gets wrong does not count."""
    import secateur as sc

    torch.manual_seed(0)
    model, inputs = build(word)
    model.eval()
    started = time.process_time()
    result = sc.prune(model, inputs, ratio=0.3, scope="local", check=False)
    cut_s = time.process_time() - started
    started = time.process_time()
    stale = result.unchanged_integers
    stale_s = time.process_time() - started
    old = without_new(result.plan).apply(model)
    found = {}
    for check in CHECKS[word.partition(":")[0]]:
        needs = _NEEDS.get(check.__name__)
        if (needs is None or hasattr(model, needs)) and answer(check, model, inputs) == "right":
            now = answer(check, result.model, inputs)
            before = answer(check, old, inputs) if check in _READING_NEW else now
            found[check.__name__] = [before, now]
    return {"calls": found, "stale": list(stale), "cut_s": round(cut_s, 2), "stale_s": round(stale_s, 3)}


_READING_NEW = (feature_info, *CHECKS["hf"])
"""Calls that read what was added."""


def without_new(plan: Any) -> Any:
    """A plan whose lists and configs do not follow, as it was before this page."""
    left = {
        module: {name: size for name, size in sizes.items() if not name.startswith(NEW)}
        for module, sizes in plan.attributes.items()
    }
    return plan.model_copy(update={"attributes": left})


def run(pattern: str) -> None:
    """Look at the networks that have no result yet, and write down what was found."""
    for word in words(pattern):
        data = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if word in data:
            continue
        signal.alarm(LIMIT_S)
        try:
            found = look_at(word)
        except Exception as error:  # noqa: BLE001 - as above
            found = {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"}
        finally:
            signal.alarm(0)
        data = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # others may run beside
        data[word] = found
        RESULTS.write_text(json.dumps(data, indent=1) + "\n")
        told = {name: now for name, (_, now) in found.get("calls", {}).items() if now != "right"}
        print(word, found.get("cut_s"), found.get("failed", ""), told, flush=True)


def page() -> str:
    """The page."""
    data = json.loads(RESULTS.read_text())
    lines = [
        "# What is called after the cut",
        "",
        "Made by `benchmarks/afterwards.py`, which says what each call is compared with: networks of random",
        "weights, 30 % of the channels of every group cut. What the uncut network gets wrong is left out.",
        "*Before*: the same cut without what has been added for this page, which are lists such as",
        "`feature_info` and the fields of configs.",
        "",
        "| call | networks | right before | right | wrong | raises |",
        "|---|---|---|---|---|---|",
    ]
    rows = [(word, call, *both) for word, had in data.items() for call, both in had.get("calls", {}).items()]
    for name in (check.__name__ for checks in CHECKS.values() for check in checks):
        both = [(before, now) for _, call, before, now in rows if call == name]
        kinds = Counter(now.partition(" ")[0].strip(":") for _, now in both)
        was = sum(before == "right" for before, _ in both)
        row = (f"`{name}`", len(both), was, kinds["right"], kinds["wrong"], kinds["raises"])
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += ["", f"{len(data)} networks.", "", "## What is not right", ""]
    lines += ["| network | call | before | now |", "|---|---|---|---|"]
    lines += [
        f"| {word} | `{call}` | {before} | {now} |" for word, call, before, now in rows if now != "right"
    ]
    lines += [f"| {word} | the cut | | {had['failed']} |" for word, had in data.items() if "failed" in had]
    lines += ["", "## What `result.unchanged_integers` lists", ""]
    lines += [
        f"* {word}: {len(had['stale'])}, such as {had['stale'][0]}"
        for word, had in data.items()
        if had.get("stale")
    ]
    slowest = max((had.get("stale_s", 0), word) for word, had in data.items())
    lines += ["", f"It takes {slowest[0]} s at most ({slowest[1]})."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    signal.signal(signal.SIGALRM, late)
    torch.set_num_threads(1)
    if not options.page:
        run(options.only)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()

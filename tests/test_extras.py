"""Pruning needs no extra; what needs one says which."""

import subprocess
import sys
import textwrap

import pytest

BLOCK = """
import sys
from importlib.machinery import PathFinder
class Blocked(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Blocked if finder is PathFinder else finder for finder in sys.meta_path]
"""
EXTRAS = (
    "torchvision", "matplotlib", "sklearn", "torchmetrics", "lightning_fabric", "lightning", "scipy",
    "faster_coco_eval", "PIL", "transformers", "onnx", "onnxruntime", "onnxscript", "ray", "cv2",
)  # fmt: skip

NETWORK = """
from torch import nn
def network():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


def run(code, folder):
    """Run Python code where no extra is installed."""
    start = BLOCK.format(names=set(EXTRAS))
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def test_python_prunes_recovers_saves_loads_and_checks(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    done = run(
        """
        import torch, secateur as sc
        from net import network
        x = torch.randn(4, 1, 8, 8)
        recovery = {"criterion": "activation-mean", "data": [x], "recover": ["absorb", "refit"]}
        result = sc.prune(network(), x, ratio=0.5, **recovery)
        assert result.verdict.exact
        sc.save(result, "half")
        small = sc.load("half", network())
        print(torch.equal(small(x), result.model(x)), sc.latency(small, x, repeats=3).median_ms > 0)
        sc.mask.prune(small, method="l1", amount=0.2)
        sc.drop_blocks
        """,
        tmp_path,
    )
    assert done.stdout == "True True\n", done.stderr


def command(words, folder):
    """Run the command line where no extra is installed."""
    return run(f"from secateur.cli import main; main({words!r})", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extras")
    (folder / "net.py").write_text(NETWORK)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["inspect", "net.py:network", "--input", "1,1,8,8"],
        ["prune", "net.py:network", "--input", "1,1,8,8", "--ratio", "0.5", "--save", "half"],
        ["bench", "net.py:network", "--input", "1,1,8,8"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_need_no_extra_run(words, folder):
    done = command(words, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "net.py:network", "--epochs", "1", "--save", "run"], "train"),
        (["darknet", "demo", "--save", "run"], "darknet"),
        (["sweep", "net.py:network", "--ratios", "0.5", "--save", "sweep"], "train"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_what_needs_an_extra_says_which(words, extra, folder):
    done = command(words, folder)
    assert done.returncode == 2
    assert "which is not installed" in done.stderr
    assert f"pip install 'secateur[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr

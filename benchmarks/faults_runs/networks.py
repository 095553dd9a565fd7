"""The networks that faults are planted in: micro networks, the samples of all rules, models of the zoo."""

import copy
import fnmatch
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn
from zoo_models import FAMILIES as PACKAGES

from faults_runs.truth import Look, outputs

ROOT = Path(__file__).parents[2]

ZOO = {
    "torchvision": (
        "resnet18",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "googlenet",
        "swin_t",
        "lraspp_mobilenet_v3_large",
    ),
    "timm": (
        "resnet.resnet10t",
        "ghostnet.ghostnet_050",
        "vision_transformer.vit_tiny_patch16_224",
        "levit.levit_128s",
        "starnet.starnet_s050",
        "mobilevit.mobilevit_xxs",
        "pvt_v2.pvt_v2_b0",
        "efficientvit_mit.efficientvit_b0",
        "edgenext.edgenext_xx_small",
        "repghost.repghostnet_050",
    ),
    "transformers": (
        "bert",
        "gpt2",
        "llama",
        "t5",
        "deberta",
        "opt",
        "distilbert",
        "mixtral",
        "whisper",
        "vit",
    ),
    "ultralytics": ("yolov8n", "yolo11n-cls", "yolo12n-cls"),
}
"""Thirty small models of the zoo benchmark."""

_WITH_WIDTHS = ("nets_attention", "nets_multihead", "nets_fused")
"""Micro networks that are also cut inside their heads."""


_A_THIRD = {"ratio": 0.34, "scope": "local"}
"""Two of three positions stay, so that there is an order; many samples of rules have no more."""


@dataclass(frozen=True)
class Network:
    """A network to plant faults in.

    Attributes:
        name: "micro:conv1d", "rule:aten.relu", "timm:resnet.resnet10t".
        family: What the table counts together.
        make: Makes the model and its example inputs.
        request: What `prune` is asked for.
        look: Runs the model for the independent comparison, and returns what is compared.
    """

    name: str
    family: str
    make: Callable[[], tuple[nn.Module, Any]]
    request: Mapping[str, Any] = field(default_factory=lambda: {"ratio": 0.5, "scope": "local"})
    look: Look = outputs


def all_networks(pattern: str = "*") -> list[Network]:
    """The networks whose name or family fits a pattern."""
    made = [*_hidden(), *_micro(), *_rules(), *_zoo()]
    return [
        network
        for network in made
        if fnmatch.fnmatchcase(network.name, pattern) or fnmatch.fnmatchcase(network.family, pattern)
    ]


def _from_tests(folder: str, module: str) -> Any:
    path = str(ROOT / "tests" / folder)
    if path not in sys.path:
        sys.path.insert(0, path)
    return importlib.import_module(module)


def _hidden() -> Iterator[Network]:
    """Networks whose end hides the numbers inside; those are what the independent comparison looks at."""
    nets = _from_tests("proof", "hidden_nets")
    for name, (_, tail) in nets.NETWORKS.items():
        if not name.startswith("nothing hidden"):
            request = {"channels": {"a": 0.5}}
            yield Network(f"hidden:{name}", "hidden", partial(_of_tail, nets.Held, tail), request, _inside)


def _of_tail(kind: Any, tail: Any) -> tuple[nn.Module, Any]:
    return kind(copy.deepcopy(tail)), torch.randn(16, 6)


def _inside(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return [model.eval().logits(inputs)]  # type: ignore[operator]


def _micro() -> Iterator[Network]:
    for path in sorted((ROOT / "tests" / "micro").glob("nets_*.py")):
        family = f"micro {path.stem.removeprefix('nets_')}"
        for case in _from_tests("micro", path.stem).CASES:
            look = _on_given_boxes if "roi-" in case.name else outputs
            yield Network(f"micro:{case.name}", family, partial(_of_case, case), look=look)
            if path.stem in _WITH_WIDTHS:
                request = {**_A_THIRD, "axes": "widths"}
                yield Network(f"micro:{case.name} (widths)", family, partial(_of_case, case), request)


def _on_given_boxes(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Boxes that are drawn would name images that are not there, whose memory anything may hold."""
    boxes = _from_tests("micro", "nets_pooling").boxes()[1]
    return outputs(model, (inputs[0], boxes.to(inputs[0].dtype)))


def _of_case(case: Any) -> tuple[nn.Module, Any]:
    spread = _from_tests("micro", "masked").spread
    return spread(case.make()).eval(), case.draw()


class Sample(nn.Module):
    """A rule's sample as a network: each `T(...)` is a parameter, so that its dims are free.

    All numbers of all results are read: each output of the network is a sum of them, differently weighted.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tensors = nn.ParameterList()
        generator = torch.Generator().manual_seed(0)

        def make(*sizes: int) -> Tensor:
            self.tensors.append(nn.Parameter(torch.randn(*sizes, generator=generator, dtype=torch.float64)))
            return self.tensors[-1]

        with torch.no_grad():
            results = _results(_evaluate(text, make))
        shapes = [(3, *result.shape) for result in results]
        self.readers = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add what is read of each result to the input, three numbers."""
        tensors = iter(self.tensors)
        for result, reader in zip(
            _results(_evaluate(self.text, lambda *_: next(tensors))), self.readers, strict=True
        ):
            read = result.to(torch.float64) * reader
            x = x + (read.sum(tuple(range(1, read.dim()))) if read.dim() > 1 else read)
        return x


def _evaluate(text: str, make: Callable[..., Tensor]) -> Any:
    return eval(text, {"torch": torch, "F": F, "torchvision": torchvision, "T": make})


def _results(output: Any) -> list[Tensor]:
    """The tensors that a call returns, complex ones as pairs of real numbers."""
    flat = torch.utils._pytree.tree_leaves(output)
    tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
    return [torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf for leaf in tensors]


def _rules() -> Iterator[Network]:
    try:
        module = importlib.import_module("secateur.coupling.rule")
    except ImportError:  # the name at commit 8f7ae5f
        module = importlib.import_module("secateur.couple.rule")
    folder = Path(str(module.__file__)).parent / "rules"
    sources = {path.stem: path.read_text() for path in sorted(folder.glob("[a-z]*.py"))}
    for op, rule in ((op, module.rules[op]) for op in module.rules):
        if rule.law.startswith("barrier: "):
            continue
        family = rule.apply.__module__.rpartition(".")[2]
        if family == "rule":  # an equation: the file that it stands in
            family = next((stem for stem, text in sources.items() if f'"{op}"' in text), "convolution")
        for at, text in enumerate(rule.samples):
            name = f"rule:{op}" + (f" ({at + 1})" if at else "")
            yield Network(name, f"rule {family}", partial(_of_sample, text), _A_THIRD)


def _of_sample(text: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return Sample(text), torch.randn(3, dtype=torch.float64)


def _zoo() -> Iterator[Network]:
    for package, names in ZOO.items():
        for name in names:
            request: dict[str, Any] = {"ratio": 0.5, "scope": "global"}
            if name == "deberta":
                request["axes"] = "widths"
            yield Network(f"{package}:{name}", f"zoo {package}", partial(_of_zoo, package, name), request)


def _of_zoo(package: str, name: str) -> tuple[nn.Module, Any]:
    judge = importlib.import_module("zoo_runs.judge")
    made = importlib.import_module(f"zoo_models.{PACKAGES[package]}").make(name)
    judge.randomise(made[0], 0)
    return made

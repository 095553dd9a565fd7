"""One run of Torch-Pruning: dependency graph and groups, then one step with generic settings."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo_runs.inputs import as_call, output_tensors

RATIO = 0.5
MAX_RATIO = 0.9
"""secateur's `min_keep` is 0.1: no layer loses more than this share."""

_WEIGHT_OPERANDS = {"AddmmBackward": (2, 0), "MmBackward": (1,), "LinearBackward": (1, 2)}
"""Which inputs of an autograd node hold weights; of convolutions it is (1, 2)."""


def output_layers(model: nn.Module, example_inputs: Any) -> list[nn.Module]:
    """Find the layers that make the output, which Torch-Pruning must be told to leave alone.

    From every output back through the autograd graph to the nearest linear or convolution layers, through
    whatever lies between: additions, norms, activations. Further members of their groups are left alone with
    them by Torch-Pruning itself.
    """
    owner = {
        parameter: module
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    }
    args, kwargs = as_call(example_inputs)
    with torch.enable_grad():
        outputs = output_tensors(model(*args, **kwargs))
    stack: list[Any] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen: set[Any] = set()
    layers: dict[nn.Module, None] = {}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        weights = [leaf for leaf in map(_weight_of, _operands(node)) if leaf in owner]
        if weights:
            layers.update(dict.fromkeys(owner[weight] for weight in weights))
        else:
            stack.extend(following for following, _ in node.next_functions if following is not None)
    return list(layers)


def _operands(node: Any) -> list[Any]:
    """The inputs of an autograd node that can be weights."""
    name = node.name().rstrip("0123456789")
    at = (1, 2) if "Convolution" in name else _WEIGHT_OPERANDS.get(name, ())
    return [node.next_functions[index][0] for index in at if index < len(node.next_functions)]


def _weight_of(node: Any) -> Tensor | None:
    """The parameter behind an operand, through transposes, views and reparametrisations."""
    stack, hops = [node], 0
    while stack and hops < 32:
        top, hops = stack.pop(), hops + 1
        if top is None:
            continue
        variable = getattr(top, "variable", None)
        if variable is not None:
            if variable.dim() > 1:
                return variable
            continue
        if any(kind in top.name() for kind in ("Convolution", "Addmm", "Bmm", "MmBackward")):
            return None
        stack.extend(following for following, _ in top.next_functions)
    return None


def run(model: nn.Module, example_inputs: Any) -> Iterator[dict[str, Any]]:
    """Analyse and prune; yields what is known after each phase, and the pruned model at last."""
    import torch_pruning

    ignored = output_layers(model, example_inputs)
    names = {module: name for name, module in model.named_modules()}
    params = sum(parameter.numel() for parameter in model.parameters())
    yield {"ignored": [names[layer] for layer in ignored]}
    start = time.process_time()
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_inputs)
    groups = list(graph.get_all_groups(ignored_layers=ignored))
    yield {
        "nodes": len(graph.module2node),
        "groups": len(groups),
        "analyse_cpu_seconds": round(time.process_time() - start, 4),
    }
    del graph, groups
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example_inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=RATIO,
        max_pruning_ratio=MAX_RATIO,
        ignored_layers=ignored,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    after = sum(parameter.numel() for parameter in model.parameters())
    yield {
        "params_before": params,
        "params_after": after,
        "share_left": round(after / params, 4),
        "prune_cpu_seconds": round(time.process_time() - start, 4),
        "model": model,
    }

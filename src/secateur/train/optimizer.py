"""The optimizer of a run, what it remembers by parameter name, and the moving average of the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import CheckpointError, RequestError
from secateur.train.config import FitConfig


def make_optimizer(model: nn.Module, config: FitConfig) -> Optimizer:
    """Make the optimizer of all parameters that require a gradient.

    Raises:
        RequestError: There are none.

    Example:
        >>> config = FitConfig(epochs=1, optimizer="adamw", kernels_only=True)
        >>> [group["weight_decay"] for group in make_optimizer(nn.Linear(2, 2), config).param_groups]
        [0.0001, 0.0]
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        what = "no parameter of the model requires a gradient"
        raise RequestError(what, do="set requires_grad before fitting")
    kernels = [parameter for parameter in trained if parameter.dim() > 1 or not config.kernels_only]
    others = [parameter for parameter in trained if parameter.dim() <= 1 and config.kernels_only]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def remembered(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer knows of each parameter, by `name|key`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def remind(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor], source: Path) -> None:
    """Give an optimizer what `remembered` returned.

    Raises:
        CheckpointError: It is of parameters that the model does not have.
    """
    named = dict(model.named_parameters())
    for key, value in state.items():
        name, _, moment = key.rpartition("|")
        if name not in named:
            what = f"{source / 'optimizer.safetensors'} holds {key}, which the model does not have"
            raise CheckpointError(what, do="build the model that the run was started with")
        parameter = named[name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).detach().copy_(value)
        optimizer.state[parameter][moment] = value


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move a moving average towards the network; counters are copied.

    Example:
        >>> slow, fast = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _, _ = nn.init.zeros_(slow.weight), nn.init.ones_(fast.weight)
        >>> follow(slow, fast, decay=0.75)
        >>> slow.weight.item()
        0.25
    """
    for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)

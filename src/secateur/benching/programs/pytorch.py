"""PyTorch as it is, and compiled by `torch.compile`."""

from typing import Any

import torch
from torch import nn

from secateur.benching.program import Contender, Turn, programs
from secateur.capture import as_call
from secateur.capture.shadow import shadow
from secateur.costs.stopwatch import passes_ms, quiet


def _turn(model: nn.Module, contender: Contender, threads: int) -> Turn:
    return lambda passes: passes_ms(model, contender.inputs, passes, warmup=2, threads=threads)


@programs("pytorch")
def eager(contender: Contender, threads: int) -> Turn:
    """Run the module."""
    return _turn(shadow(contender.module), contender, threads)


@programs("compile")
def compiled(contender: Contender, threads: int) -> Turn:
    """Compile the module for the sizes of its inputs."""
    copy = shadow(contender.module)
    model: Any = torch.compile(copy, dynamic=False)
    args, kwargs = as_call(contender.inputs)
    with quiet(copy, threads), torch.inference_mode():
        model(*args, **kwargs)  # here it is compiled, or not
    return _turn(model, contender, threads)

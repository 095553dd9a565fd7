"""Traps: what foreign folders bring along, and what shows that it was run."""

import os

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.write.checkpoint import save_model


@pytest.fixture
def trap(tmp_path):
    """A path that code makes when it runs; nothing may ever be there."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists(), "code of the folder was run"


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def bomb(trap):
    """Springs the trap when it is unpickled."""
    return _Bomb(trap)


@pytest.fixture
def forged():
    """Make a folder whose plan names any source."""

    def made(folder, source, arguments=None):
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
        plan = result.plan.model_copy(update={"source": source, "source_arguments": arguments or {}})
        return save_model(result.model, plan, folder)

    return made

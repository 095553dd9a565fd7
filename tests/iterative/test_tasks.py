"""Pruning in steps of what is no classifier: the task's figure decides, in its direction."""

import json

import pytest
import torch
from torch import nn

from secateur.iterative import ROWS, Recipe, iterate
from secateur.train import FitConfig, Task, Work, as_parts

TUNE = FitConfig(epochs=1, lr=0.05, batch_size=32, quiet=True, device="cpu", threads=1)


class Rising(Task):
    """Training raises the output; the figure is how high it is."""

    def loss(self, model, output, batch):
        return {"height": -output.mean()}

    def scores(self, output, batch):
        return {"height": output[:, 0], "square": output[:, 0] ** 2}


class Falling(Rising):
    lower_is_better = True


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))


def work_of(task):
    data = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    return Work(task, as_parts("numbers", torch.utils.data.TensorDataset(data, data.sum(1))))


@pytest.mark.parametrize(("task", "kept"), [(Rising(), True), (Falling(), False)])
def test_a_fine_tuning_goes_on_where_the_figure_is_better(net, task, kept, tmp_path):
    work = work_of(task)
    recipe = Recipe(TUNE, steps=2, ratio=0.5, criterion="taylor", recover=(), check=False)
    done = iterate(
        net, work.example, work.parts, recipe, task=task, calibration=work.evidence(64), save=tmp_path / "run"
    )
    assert [row.kept_epoch for row in done.rows] == [None, int(kept)] * 2
    for cut, tuned in (done.rows[:2], done.rows[2:]):
        assert list(cut.figures) == ["height", "square"]
        assert (tuned.value > cut.value) == kept
        assert (tuned.figures == cut.figures) != kept
    lines = [json.loads(line) for line in (tmp_path / "run" / ROWS).read_text().splitlines()]
    assert [line["height"] for line in lines[1:]] == [row.value for row in done.rows]
    again = iterate(
        net,
        work.example,
        work.parts,
        recipe,
        task=task,
        calibration=work.evidence(64),
        save=tmp_path / "run",
        resume=True,
    )
    assert again.rows == done.rows


def test_a_gradient_criterion_takes_those_of_the_task(net):
    rising, falling = work_of(Rising()), work_of(Falling())

    class Squared(Rising):
        def loss(self, model, output, batch):
            return {"square": (output[:, 0] - batch[1]).square().mean()}

    squared = work_of(Squared())
    assert rising.criterion(net, "l2") == "l2"
    chosen = [work.criterion(net, "taylor") for work in (rising, falling, squared)]
    output, batch = torch.ones(3, 1), (None, torch.zeros(3))
    assert [float(one.loss(output, batch)) for one in chosen] == [-1.0, -1.0, 1.0]

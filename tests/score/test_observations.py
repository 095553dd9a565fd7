"""A kind of evidence is one file, a criterion that reads it another: this one plugs in both."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.score.criterion import criteria, criterion
from secateur.score.observations import Evidence, evidence
from secateur.sweep import channel_sweep
from secateur.train import DatasetPart, Task

X = torch.zeros(2, 3)


@pytest.fixture
def plugged():
    """What two files in the folders would hold, taken out again afterwards."""
    dict(criteria), dict(evidence)  # the folders are loaded first
    passes = []

    class Peaks(Evidence):
        reads = "an activation"

        def look(self, tensor, value):
            return tensor.movedim(value.dim, 0).flatten(1).amax(1)

        def add(self, one, two):
            return torch.maximum(one, two)

        def show(self, found, value):
            return found[value.places].amax(1)

        def gather(self, *of):
            passes.append(of)
            return super().gather(*of)

    evidence.add("peaks", Peaks())

    @criterion("peak", of="peaks", normalise="none")
    def peak(peaks):
        return peaks

    yield passes
    del evidence._entries["peaks"], criteria._entries["peak"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_a_criterion_reads_evidence_that_is_plugged_in(plugged):
    model = network()
    data = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    result = sc.prune(model, X, ratio=0.5, scope="local", criterion="peak", data=data)
    peaks = model[:2](torch.cat(data)).amax(0)
    assert result.plan.keep["0"] == tuple(sorted(peaks.topk(3).indices.tolist()))
    assert len(plugged) == 1  # one pass for all groups
    with pytest.raises(sc.errors.RequestError, match="criterion peak needs data for activations"):
        sc.prune(model, X, ratio=0.5, criterion="peak")


def test_a_sweep_of_one_layer_reads_it_too(plugged):
    class Signs(Task):
        def loss(self, model, output, batch):
            raise AssertionError("nothing is trained")

        def scores(self, output, batch):
            return {"right": output[:, 0].sign() == batch[1]}

    model, points = network(), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    part = DatasetPart(torch.utils.data.TensorDataset(points, points[:, 0].sign()))
    swept = channel_sweep(model, "0", part, (1,), task=Signs(), criterion="peak", data=[points], device="cpu")
    assert swept.scores.tolist() == pytest.approx(model[:2](points).amax(0).tolist())
    assert swept.rows[1].removed == (int(swept.scores.argmin()),)


def test_a_kind_that_is_unknown_is_named():
    with pytest.raises(sc.errors.RequestError, match="unknown evidence 'rank'"):
        criterion("of-nothing", of="rank", normalise="none")

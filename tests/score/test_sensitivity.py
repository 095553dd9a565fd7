"""What a change of a layer's output counts: beside the Jacobian, and where there is none."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture.batches import Samples
from secateur.capture.replay import Tapes
from secateur.coupling.layers import layer_of
from secateur.errors import NoEffectWarning
from secateur.score.sensitivity import sensitivities

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))


def _found(model, data, example=None):
    example = data[0][:1] if example is None else example
    graph = sc.couple(model, example).graph
    layers = {node.index: layer for node in graph.nodes if (layer := layer_of(graph, node)) is not None}
    found = sensitivities(Tapes(model, graph), layers, Samples(data, model, example))
    return {layers[at].name: counts for at, counts in found.items()}


def _net(inplace=False):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 1)).eval()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_the_square_of_the_jacobian_in_units_of_the_spread(inplace, frozen):
    model = _net(inplace).requires_grad_(not frozen)
    found = _found(model, [X])
    with torch.no_grad():
        open_ = (model[0](X) > 0).double()
        spread = model(X).std(correction=0).double()
        expected = (open_ * model[2].weight.double()).square().mean(0) / (spread**2 * len(X))
    torch.testing.assert_close(found["0"], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(found["2"], (1 / (spread**2 * len(X))).view(1), rtol=1e-4, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_output_counts_in_units_of_its_own_spread():
    class Two(nn.Module):
        def __init__(self, size):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.one, self.two, self.size = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2), size

        def forward(self, x):
            h = self.stem(x).relu()
            return self.one(h), self.size * self.two(h)

    plain, loud = _found(Two(1.0).eval(), [X, X[:8]]), _found(Two(1000.0).eval(), [X, X[:8]])
    torch.testing.assert_close(loud["stem"], plain["stem"], rtol=1e-4, atol=0)
    torch.testing.assert_close(loud["two"], plain["two"], rtol=1e-4, atol=0)


def test_batches_add_up_and_images_have_rows():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    ).eval()
    images = torch.randn(6, 2, 8, 8)
    found = _found(model, list(images.split(2)))
    assert found["0"].shape == (5,)
    assert found["4"].shape == (3,)
    assert bool((found["0"] > 0).all())


def test_what_the_outputs_do_not_hang_on_counts_nothing():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x) + 0 * self.idle(x)

    found = _found(Idle().eval(), [X])
    assert float(found["idle"].abs().sum()) == 0
    assert bool((found["used"] > 0).all())


def test_a_model_of_decisions_is_told_of_and_its_layers_count_alike():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.two(self.one(x).relu()).argmax(1)

    with pytest.warns(NoEffectWarning, match="count alike: the outputs cannot be differentiated"):
        made = sc.prune(Decides().eval(), X[:1], ratio=0.5, criterion="after-refit", data=[X])
    assert made.model.one.out_features == 4


def test_a_branch_that_hardly_reaches_the_outputs_is_cut_first():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.loud, self.soft = (
                nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)) for _ in "ab"
            )

        def forward(self, x):
            return self.loud(x) + 1e-3 * self.soft(x)

    torch.manual_seed(0)
    made = sc.prune(Two().eval(), X[:1], ratio=0.4, criterion="after-refit", data=[X])
    assert made.model.soft[0].out_features < 6 < made.model.loud[0].out_features

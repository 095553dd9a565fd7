"""Short ways of the recorder predict what the operators themselves give."""

import pytest
import torch
from torch import nn

from secateur.capture import capture
from secateur.errors import CaptureError


class Joined(nn.Module):
    def __init__(self, dim, change):
        super().__init__()
        self.dim, self.change = dim, change

    def forward(self, *tensors):
        return torch.cat([self.change(tensor) for tensor in tensors], self.dim) * 1


def same(tensor):
    return tensor


@pytest.mark.parametrize(
    ("shapes", "dim", "change"),
    [
        (((2, 3, 4), (2, 5, 4)), 1, same),
        (((2, 3, 4), (2, 3, 1)), -1, same),
        (((2, 3), (4, 3), (1, 3)), 0, same),
        (((2, 3),), 1, same),
        (((0,), (2, 3)), 1, same),
        (((2, 3, 4), (2, 3, 4)), 1, lambda tensor: tensor.transpose(1, 2)),
        (((2, 3, 4, 5), (2, 6, 4, 5)), 1, lambda tensor: tensor.to(memory_format=torch.channels_last)),
        (((2, 3), (2, 3)), 1, lambda tensor: tensor.expand(4, 2, 3)),
    ],
)
def test_a_concatenation_has_the_shape_and_type_that_it_has_on_real_tensors(shapes, dim, change):
    model = Joined(dim, change)
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    graphs = [capture(model, inputs, substrate) for substrate in ("fake", "real")]
    fake, real = ([graph.values[node.outputs[0].value] for node in graph.nodes] for graph in graphs)
    assert fake == real


def test_a_concatenation_of_two_types_is_of_the_wider_one():
    inputs = (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64))
    graph = capture(Joined(1, same), inputs, "fake")
    assert graph.values[graph.outputs[0]].dtype == "float64"


@pytest.mark.parametrize(
    ("shapes", "dim"), [(((2, 3), (4, 3)), 1), (((2, 3), (2, 3)), 2), (((2, 3), (2,)), 0)]
)
def test_a_concatenation_that_does_not_fit_is_refused(shapes, dim):
    with pytest.raises(CaptureError, match="does not run"):
        capture(Joined(dim, same), tuple(torch.zeros(shape) for shape in shapes))


class Cache(nn.Module):
    """Starts from an empty tensor on the input's device, as the caches of language models do."""

    def forward(self, x):
        return torch.cat([torch.tensor([], dtype=x.dtype, device=x.device), x], -1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_made_on_the_inputs_device_is_recorded_on_fake_tensors(device):
    graph = capture(Cache(), torch.zeros(2, 3, device=device), "fake")
    assert graph.nodes[-1].op == "aten.cat"
    assert graph.values[graph.outputs[0]].shape == (2, 3)

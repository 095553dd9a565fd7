"""Sparse kernels compute the same; a mask alone changes no speed."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import errors
from secateur.mask.sparse import SparseLinear, break_even, use_semi_structured, use_sparse_kernels


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(12,), (3, 12), (2, 5, 12)])
def test_sparse_linear_layers_compute_the_same(bias, shape):
    dense = nn.Linear(12, 7, bias=bias)
    sc.mask.prune(dense, amount=0.8)
    sc.mask.remove(dense)
    x = torch.randn(shape)
    sparse = SparseLinear(dense)
    assert torch.allclose(sparse(x), dense(x), atol=1e-6)
    again = SparseLinear(dense)
    again.load_state_dict(sparse.state_dict())
    assert torch.equal(again(x), sparse(x))


def test_only_layers_that_are_sparse_enough_are_converted():
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    sc.mask.prune(net, amount={"0": 0.9, "2": 0.3})
    sparse = use_sparse_kernels(net, above=0.8)
    assert [type(module).__name__ for module in sparse] == ["SparseLinear", "ReLU", "Linear"]
    x = torch.randn(4, 32)
    assert torch.allclose(sparse(x), net(x), atol=1e-5)
    with pytest.raises(errors.RequestError, match="no linear layer"):
        use_sparse_kernels(net, above=0.95)


def test_the_break_even_is_measured():
    found = break_even(256, 256, batch=1, sparsities=(0.0, 0.999), repeats=5)
    assert found in (None, 0.0, 0.999)


def test_a_mask_alone_leaves_out_no_multiplication():
    """The honest answer to `sc.latency`: the operators and their sizes are the same."""
    net, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)), torch.randn(4, 32)
    before = sc.measure(net, x)
    sc.mask.prune(net, amount=0.95)
    sc.mask.remove(net)
    assert sc.measure(net, x) == before
    assert sc.latency(net, x, repeats=3).median_ms > 0


def test_two_of_four_kernels_ask_for_a_gpu_that_has_them():
    if torch.cuda.is_available():
        pytest.skip("this test is for machines without")
    with pytest.raises(errors.RequestError, match=r"compute capability 8\.0, the model is on cpu"):
        use_semi_structured(nn.Linear(64, 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_of_four_kernels_compute_the_same():
    net = nn.Sequential(nn.Linear(128, 128)).half().cuda()
    sc.mask.prune(net, structure="2:4")
    x = torch.randn(64, 128).half().cuda()
    assert torch.allclose(use_semi_structured(net)(x), net(x), atol=1e-2)

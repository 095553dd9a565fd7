"""Packed files: smaller by the sparsity, the same to the last bit."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur import errors
from secateur.write.packed import pack, unpack

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool]


def same_bits(one, two):
    assert one.dtype == two.dtype
    assert one.shape == two.shape
    return torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_what_is_packed_comes_back_to_the_last_bit(shape, dtype, sparsity, seed):
    torch.manual_seed(seed)
    tensor = (torch.randn(shape) * 100 * (torch.rand(shape) >= sparsity)).to(dtype)  # with -0.0
    if dtype.is_floating_point:
        tensor.view(-1)[0] = float("nan")
    written, metadata = pack({"w": tensor})
    assert same_bits(unpack(written, metadata)["w"], tensor)
    size = sum(part.numel() * part.element_size() for part in written.values())
    assert size <= tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_files_are_smaller_by_the_sparsity(tmp_path, sparsity):
    net = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300))
    sc.mask.prune(net, scope="global", sparsity=sparsity)
    sc.save(sc.mask.remove(copy.deepcopy(net)), tmp_path / "dense")
    sc.save(net, tmp_path / "packed", packed=True)
    dense, packed = ((tmp_path / at / "weights.safetensors").stat().st_size for at in ("dense", "packed"))
    bits = 1 / 32
    assert packed / dense == pytest.approx(1 - sparsity + bits, abs=0.01)
    loaded = sc.load(tmp_path / "packed", nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300)))
    for name, tensor in sc.mask.remove(net).state_dict().items():
        assert same_bits(loaded.state_dict()[name], tensor)
    sc.mask.mask_zeros(loaded)
    assert sc.mask.report(loaded).sparsity == pytest.approx(sparsity, abs=1e-4)


def test_cut_models_are_packed_too(tmp_path):
    net = nn.Sequential(nn.Linear(30, 80), nn.ReLU(), nn.Linear(80, 20))
    result = sc.prune(net, torch.zeros(1, 30), ratio=0.5)
    with torch.no_grad():
        result.model[0].weight[:20].zero_()
    sc.save(result, tmp_path, packed=True)
    assert any(name.endswith("::bits") for name in load_file(tmp_path / "weights.safetensors"))
    loaded = sc.load(tmp_path, net)
    assert torch.equal(loaded[0].weight, result.model[0].weight)


def test_models_are_saved_with_their_masks_and_loaded_with_them(tmp_path):
    net, fresh = (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))
    sc.mask.prune(net, amount=0.5)
    sc.save(net, tmp_path)
    loaded = sc.load(tmp_path, fresh)
    assert sc.mask.is_pruned(loaded)
    assert not sc.mask.is_pruned(fresh)
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), net(x))
    assert torch.equal(loaded[0].weight_orig, net[0].weight_orig)


def test_damaged_bits_are_refused(tmp_path):
    written, metadata = pack({"w": torch.tensor([0.0] * 60 + [1.0] * 4)})
    written["w::bits"][0] = 255
    save_file(written, tmp_path / "w.safetensors", metadata)
    with pytest.raises(errors.CheckpointError, match="12 bits are set, values are"):
        unpack(written, metadata)
    del written["w::bits"]
    with pytest.raises(errors.CheckpointError, match="bits are missing"):
        unpack(written, metadata)
    assert json.loads(metadata["secateur_packed"]) == {"w": [64]}


@pytest.mark.parametrize("change", ["missing", "short", "long"])
def test_bits_of_another_size_than_the_tensor_are_refused(change):
    written, metadata = pack({"w": torch.tensor([0.0, 0.0, 5.0, 0.0] * 8)})
    bits = written.pop("w::bits")
    changed = {"short": bits[:-1], "long": torch.cat([bits, torch.zeros(1, dtype=torch.uint8)])}
    if change in changed:
        written["w::bits"] = changed[change]
    with pytest.raises(
        errors.CheckpointError, match="cannot unpack w: its bits are missing or of another size"
    ):
        unpack(written, metadata)

"""A saved file says what it was, and is believed no further: damage, edits and mixtures are refused."""

import json
import random

import decoder
import nets
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError
from secateur.write.checkpoint import load_state, save_model
from secateur.write.digests import DIGESTS, VALUES

X = torch.zeros(2, 3, 6, 6)


def residual():
    return nets.randomise(nets.Residual())


def saved(folder, model=None, packed=False):
    result = sc.prune(model or residual(), X, ratio=0.4, check=False)
    if packed:
        with torch.no_grad():
            for parameter in result.model.parameters():
                parameter[torch.rand_like(parameter) < 0.9] = 0
    save_model(result.model, result.plan, folder, packed=packed)
    return result.model


def streamed(folder, size=2_000):
    model = nets.randomise(decoder.Decoder())
    whole = decoder.write_sharded(model.state_dict(), folder.parent / "whole", files=2)
    plan = sc.plan(model, decoder.TOKENS, ratio=0.5, scope="local")
    sc.stream(plan, whole, folder, max_shard_bytes=size)
    return plan.apply(model)


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(
        tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]) for name, tensor in one.items()
    )


def header_of(path):
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path, table, values):
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)


@pytest.mark.parametrize("kind", ["plain", "packed", "streamed"])
def test_one_changed_bit_is_found_wherever_it_is(tmp_path, kind):
    folder = tmp_path / "half"
    model = streamed(folder) if kind == "streamed" else saved(folder, packed=kind == "packed")
    make = decoder.Decoder if kind == "streamed" else nets.Residual
    assert same(sc.load(folder, make()), model)
    rng, refused = random.Random(0), 0
    for _ in range(150):
        path = rng.choice(sorted(folder.glob("*.safetensors")))
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        whole, _ = path.read_bytes(), path.write_bytes(content)
        try:
            assert same(sc.load(folder, make()), model)  # the word "format" of the header may change
        except CheckpointError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 140
    assert same(sc.load(folder, make()), model)


def test_unverified_values_are_taken_as_they_are(tmp_path):
    saved(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"1 of its \d+ tensors are not those saved(.|\n)*verify=False"):
        sc.load(tmp_path, nets.Residual())
    assert isinstance(sc.load(tmp_path, nets.Residual(), verify=False), nets.Residual)


def _other_type(table, name):
    table[name]["dtype"] = {"F32": "I32", "I64": "F64"}[table[name]["dtype"]]


def _swapped(table, name):
    held = {key: one for key, one in table.items() if key != "__metadata__" and key != name}
    other = next(one for one in held.values() if one["shape"] == table[name]["shape"])
    table[name]["data_offsets"], other["data_offsets"] = other["data_offsets"], table[name]["data_offsets"]


def _renamed(table, name):
    table["other"] = table.pop(name)


@pytest.mark.parametrize("change", [_other_type, _swapped, _renamed])
def test_an_edited_header_is_refused(tmp_path, change):
    saved(tmp_path)
    path = tmp_path / "weights.safetensors"
    table, values = header_of(path)
    change(table, "norm.weight")
    rewrite(path, table, values)
    with pytest.raises(CheckpointError):
        sc.load(tmp_path, nets.Residual())


@pytest.mark.parametrize("lost", [DIGESTS, VALUES, "secateur_plan"])
def test_a_part_of_what_a_file_says_of_itself_is_not_believed(tmp_path, lost):
    saved(tmp_path)
    path = tmp_path / "weights.safetensors"
    table, values = header_of(path)
    del table["__metadata__"][lost]
    rewrite(path, table, values)
    with pytest.raises(CheckpointError, match="header is not what was saved"):
        sc.load(tmp_path, nets.Residual())


def test_files_of_older_versions_load(tmp_path):
    model = saved(tmp_path)
    path = tmp_path / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        old = {key: value for key, value in file.metadata().items() if key in ("format", "secateur_plan")}
    save_file(load_file(path), path, old)
    assert same(sc.load(tmp_path, nets.Residual()), model)


def _mixed(model):
    model.bfloat16()
    model.norm.float()
    return model


@pytest.mark.parametrize(
    "change",
    [nn.Module.bfloat16, nn.Module.half, nn.Module.double, _mixed],
    ids=["bfloat16", "half", "double", "mixed"],
)
@pytest.mark.parametrize("meta", [False, True])
def test_types_come_back_whatever_the_architecture_has(tmp_path, change, meta):
    result = sc.prune(residual(), X, ratio=0.4, check=False)
    model = change(result.model)
    save_model(model, result.plan, tmp_path)
    architecture = nets.Residual().to("meta") if meta else nets.Residual()
    assert same(sc.load(tmp_path, architecture), model)
    assert next(architecture.parameters()).dtype == torch.float32


def test_a_large_value_does_not_become_infinite_in_a_half_architecture(tmp_path):
    model = residual()
    with torch.no_grad():
        model.stem.weight.fill_(1e6)
    saved(tmp_path, model)
    assert sc.load(tmp_path, nets.Residual().half()).stem.weight.max().item() == 1e6


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("gain", torch.linspace(0.5, 2, 3), persistent=False)

    def forward(self, x):
        return self.last(self.first(x)) * self.gain


@pytest.mark.parametrize("gain", [torch.float32, torch.bfloat16])
def test_a_buffer_that_no_file_holds_has_its_type_again(tmp_path, gain):
    result = sc.prune(Table(), torch.zeros(1, 4), ratio=0.5, check=False)
    model = result.model.bfloat16()
    model.gain = model.gain.to(gain)
    save_model(model, result.plan, tmp_path)
    assert sc.load(tmp_path, Table()).gain.dtype == gain


FOREIGN = {
    "0.weight": torch.ones(8, 4),
    "0.bias": torch.ones(8),
    "1.running_mean": torch.zeros(8),
    "1.running_var": torch.ones(8),
    "1.weight": torch.ones(8),
    "1.bias": torch.ones(8),
    "1.num_batches_tracked": torch.tensor(3),
}


def plain():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": torch.ones(8, dtype=torch.int32)}, "0.bias is int32, the model has float32"),
        (
            {"1.num_batches_tracked": torch.tensor(3.0)},
            "1.num_batches_tracked is float32, the model has int64",
        ),
        ({"0.bias": torch.ones(8, dtype=torch.bool)}, "0.bias is bool"),
        ({"0.bias": torch.ones(8, dtype=torch.complex64)}, "0.bias is complex64"),
        ({"0.bias": torch.full((8,), 1e300, dtype=torch.float64)}, "values of 0.bias do not go into"),
    ],
)
def test_foreign_tensors_of_another_kind_or_range_are_refused_and_change_nothing(change, message):
    model = plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_state(model, FOREIGN | change, "foreign.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_foreign_bfloat16_comes_back_as_bfloat16():
    model = plain()
    state = {name: t.bfloat16() if t.is_floating_point() else t for name, t in FOREIGN.items()}
    load_state(model, state, "foreign.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_one_foreign_tensor_of_another_precision_takes_the_type_of_the_model():
    model = plain()
    state = FOREIGN | {"0.bias": torch.full((8,), 0.5).half(), "1.num_batches_tracked": torch.tensor(3).int()}
    load_state(model, state, "foreign.safetensors")
    assert model[0].bias.dtype == torch.float32
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert (model[0].bias[0].item(), model[1].num_batches_tracked.item()) == (0.5, 3)


def test_files_of_two_streams_are_not_taken_together(tmp_path):
    """One plan, other values: by plan and shapes alone nothing would tell."""
    plan = None
    for number in range(2):
        model = nets.randomise(decoder.Decoder())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += number
        whole = decoder.write_sharded(model.state_dict(), tmp_path / f"whole-{number}", files=2)
        plan = plan or sc.plan(model, decoder.TOKENS, ratio=0.5, scope="local")
        sc.stream(plan, whole, tmp_path / f"half-{number}", max_shard_bytes=2_000)
    name = sorted(path.name for path in (tmp_path / "half-0").glob("*.safetensors"))[0]
    (tmp_path / "half-0" / name).write_bytes((tmp_path / "half-1" / name).read_bytes())
    with pytest.raises(CheckpointError, match=f"{name} was not written with it"):
        sc.load(tmp_path / "half-0", decoder.Decoder())
    sc.load(tmp_path / "half-0", decoder.Decoder(), verify=False)

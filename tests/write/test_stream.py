"""A checkpoint is cut on the disk as it would be in the memory: bit for bit, one tensor at a time."""

import copy
import json
import signal
import subprocess
import sys
import weakref

import decoder
import nets
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.depth.drop import drop_blocks
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.plans.making import identity_plan
from secateur.write.shards import INDEX, Shards, StoredTensor, open_shards, write_shard
from secateur.write.stream import pack


def plan_of(model, **given):
    return sc.plan(model, decoder.TOKENS, **{"ratio": 0.5, "scope": "local"} | given)


def state_of(model):
    """What transformers writes: the state dict, of tied tensors the first name."""
    state = model.state_dict(keep_vars=True)
    first = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in first.values()}


def read(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def require_same(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert two[name].dtype == tensor.dtype, name
        assert torch.equal(two[name], tensor), name


@pytest.fixture(scope="module")
def model():
    return nets.randomise(decoder.Decoder())


@pytest.fixture(scope="module")
def plan(model):
    return plan_of(model)


@pytest.fixture
def source(model, tmp_path):
    return decoder.write_sharded(state_of(model), tmp_path / "whole", files=3)


@pytest.mark.parametrize("max_shard_bytes", [1, 5_000, 10**9])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "tied"])
def test_streaming_cuts_as_the_plan_does_in_memory(kind, max_shard_bytes, tmp_path):
    def make():
        made = decoder.Decoder(tied=kind == "tied")
        return made.bfloat16() if kind == "bfloat16" else made

    model = nets.randomise(make())
    plan = plan_of(model)
    source = decoder.write_sharded(state_of(model), tmp_path / "whole", files=3)
    done = sc.stream(plan, source, tmp_path / "half", max_shard_bytes=max_shard_bytes)
    whole, cut = state_of(model), plan.apply(model)
    require_same(read(tmp_path / "half"), state_of(cut))
    require_same(sc.load(tmp_path / "half", make()).state_dict(), cut.state_dict())
    assert (done.tensors, done.files) == (len(whole), len(list((tmp_path / "half").glob("*.safetensors"))))
    assert done.sliced == sum(tensor.shape != state_of(cut)[name].shape for name, tensor in whole.items())
    assert done.after_bytes == sum(t.numel() * t.element_size() for t in state_of(cut).values())
    assert f"{done.before_bytes:,} bytes" in str(done)


def test_convolutions_buffers_and_scalars_are_streamed_from_one_file(tmp_path):
    model = nets.randomise(nets.Residual())
    save_file(model.state_dict(), tmp_path / "any.safetensors")
    plan = sc.prune(model, torch.randn(2, 3, 6, 6), ratio=0.5, scope="local").plan
    sc.stream(plan, tmp_path / "any.safetensors", tmp_path / "half")
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == ["model.safetensors", "plan.json"]
    require_same(read(tmp_path / "half"), plan.apply(model).state_dict())
    assert read(tmp_path / "half")["norm.num_batches_tracked"].shape == ()


def test_the_files_keep_to_the_layout_of_transformers(plan, source, tmp_path):
    limit = 5_000
    sc.stream(plan, source, tmp_path / "half", max_shard_bytes=limit)
    index = json.loads((tmp_path / "half" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [
        f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    total = 0
    for name in files:
        with safe_open(tmp_path / "half" / name, framework="pt") as file:
            assert file.metadata()["format"] == "pt"
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        assert {key for key, held in index["weight_map"].items() if held == name} == set(tensors)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        total += size
    assert index["metadata"]["total_size"] == total


def test_a_streamed_checkpoint_loads_into_a_model_cut_without_values(model, plan, source, tmp_path):
    sc.stream(plan, source, tmp_path / "half", max_shard_bytes=5_000)
    architecture = decoder.on_meta()
    architecture.rotary = copy.deepcopy(model.rotary)
    cut = plan.apply(architecture)
    cut.load_state_dict(read(tmp_path / "half"), assign=True)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(cut(tokens), plan.apply(model)(tokens))


@pytest.mark.parametrize("tied", [False, True])
def test_an_architecture_without_values_can_be_loaded_into(tied, tmp_path):
    model = nets.randomise(decoder.Decoder(tied=tied))
    model.norm.weight.requires_grad_(False)
    plan = plan_of(model)
    sc.stream(plan, decoder.write_sharded(state_of(model), tmp_path / "whole", 2), tmp_path / "half")
    architecture = decoder.on_meta(tied=tied)
    architecture.norm.weight.requires_grad_(False)
    loaded = sc.load(tmp_path / "half", architecture)
    require_same(loaded.state_dict(), plan.apply(model).state_dict())
    assert (loaded.lm_head.weight is loaded.embed_tokens.weight) == tied
    assert isinstance(loaded.lm_head.weight, nn.Parameter)
    assert not loaded.norm.weight.requires_grad
    assert loaded.lm_head.weight.requires_grad
    assert architecture.lm_head.weight.is_meta


def test_a_buffer_that_no_checkpoint_holds_is_computed_anew(plan, source, tmp_path):
    sc.stream(plan, source, tmp_path / "half")
    with torch.device("meta"):
        empty = decoder.Decoder()
    assert empty.rotary.inv_freq.is_meta
    loaded = sc.load(tmp_path / "half", empty)
    assert torch.equal(loaded.rotary.inv_freq, decoder.Rotary().inv_freq)


def test_a_plan_that_cuts_further_is_streamed_from_the_uncut_checkpoint(model, plan, source, tmp_path):
    again = plan_of(plan.apply(model), ratio=0.3).after(plan)
    sc.stream(again, source, tmp_path / "less")
    require_same(read(tmp_path / "less"), state_of(again.apply(model)))
    require_same(sc.load(tmp_path / "less", decoder.Decoder()).state_dict(), again.apply(model).state_dict())


class Counted:
    """Reads of a checkpoint: how many values are held at once, for as long as any tensor looks at them."""

    def __init__(self, monkeypatch):
        self.held, self.most, self.reads = 0, 0, 0
        self.read = Shards.__getitem__
        monkeypatch.setattr(Shards, "__getitem__", lambda shards, name: self.count(shards, name))

    def count(self, shards, name):
        tensor = self.read(shards, name)
        memory = tensor.reshape(-1).view(torch.uint8).numpy().copy()
        weakref.finalize(memory, self.let_go)
        self.held, self.reads = self.held + 1, self.reads + 1
        self.most = max(self.most, self.held)
        return torch.from_numpy(memory).view(tensor.dtype).reshape(tensor.shape)

    def let_go(self):
        self.held -= 1


def test_one_tensor_is_held_at_a_time_while_streaming(plan, source, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    done = sc.stream(plan, source, tmp_path / "half", max_shard_bytes=5_000)
    assert (counted.most, counted.held, counted.reads) == (1, 0, done.tensors)


@pytest.mark.parametrize(
    "criterion", ["l1", "l2", lambda view: sum(rows.abs().sum(1) for rows in view.weights)]
)
def test_planning_from_files_holds_one_tensor_and_chooses_as_in_memory(model, source, monkeypatch, criterion):
    given = {"criterion": criterion, "scope": "global"}
    counted = Counted(monkeypatch)
    planned = plan_of(decoder.on_meta(), weights=source, **given)
    # A loop variable holds the last rows while the next are read.
    assert counted.most <= 2
    assert counted.held == 0
    assert counted.reads
    assert planned.keep == plan_of(model, **given).keep
    assert planned == plan_of(model, **given)


def test_tied_weights_are_found_under_their_other_name(tmp_path):
    model = nets.randomise(decoder.Decoder(tied=True))
    state = state_of(model)
    state["lm_head.weight"] = state.pop("embed_tokens.weight")
    source = decoder.write_sharded(state, tmp_path / "whole", files=2)
    planned = plan_of(decoder.on_meta(tied=True), weights=source)
    assert planned == plan_of(model)
    sc.stream(planned, source, tmp_path / "half")
    require_same(
        sc.load(tmp_path / "half", decoder.Decoder(tied=True)).state_dict(), planned.apply(model).state_dict()
    )


def test_chance_needs_no_values(model):
    assert plan_of(decoder.on_meta(), criterion="random") == plan_of(model, criterion="random")


def test_a_criterion_without_values_is_refused_and_told_the_way_out():
    with pytest.raises(RequestError, match=r"on the meta device(.|\n)*weights='folder/of/safetensors'"):
        plan_of(decoder.on_meta())


def test_numbers_of_a_model_without_values_cannot_be_proven():
    asked = {"ratio": 0.5, "criterion": "random"}
    with pytest.raises(RequestError, match=r"check=True proves numbers(.|\n)*secateur\.plan"):
        sc.prune(decoder.on_meta(), decoder.TOKENS, **asked)
    result = sc.prune(decoder.on_meta(), decoder.TOKENS, check=False, **asked)
    assert result.model.lm_head.weight.is_meta
    assert result.after.params < result.before.params


def test_weights_of_another_shape_are_refused_while_planning(model, tmp_path):
    state = state_of(model)
    state["layers.1.up_proj.weight"] = torch.zeros(24, 31)
    source = decoder.write_sharded(state, tmp_path / "whole", files=2)
    with pytest.raises(
        RequestError,
        match=r"layers\.1\.up_proj\.weight is \[24, 31\] in the weights, "
        r"the model has \[24, 32\]",
    ):
        plan_of(decoder.on_meta(), weights=source)
    del state["layers.1.up_proj.weight"]
    missing = decoder.write_sharded(state, tmp_path / "missing", files=2)
    with pytest.raises(RequestError, match=r"layers\.1\.up_proj\.weight is missing in the weights"):
        plan_of(decoder.on_meta(), weights=missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"norm.weight": torch.zeros(31)}),
            r"0 missing, 0 unknown, 1 of another shape\n  norm\.weight is \[31\], the plan expects \[32\]",
        ),
        (lambda state: state.pop("norm.weight"), r"1 missing, 0 unknown, 0 of(.|\n)*norm\.weight is missing"),
        (
            lambda state: state.update({"norm.bias": torch.zeros(32)}),
            r"norm\.bias is in the checkpoint, the plan knows no such tensor(.|\n)*drop=\['norm\.bias'\]",
        ),
        (
            lambda state: state.update({"rotary.inv_freq": torch.zeros(4)}),
            r"rotary\.inv_freq is in the checkpoint, the plan knows no such tensor",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(
    model, plan, tmp_path, change, message
):
    state = state_of(model)
    change(state)
    source = decoder.write_sharded(state, tmp_path / "whole", files=2)
    with pytest.raises(CheckpointError, match=message):
        sc.stream(plan, source, tmp_path / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_what_the_plan_does_not_know_is_left_out_when_asked(model, plan, tmp_path):
    state = state_of(model) | {f"layers.{at}.inv_freq": torch.zeros(4) for at in range(3)}
    source = decoder.write_sharded(state, tmp_path / "whole", files=2)
    done = sc.stream(plan, source, tmp_path / "half", drop=["*.inv_freq"])
    assert done.dropped == ("layers.0.inv_freq", "layers.1.inv_freq", "layers.2.inv_freq")
    require_same(read(tmp_path / "half"), state_of(plan.apply(model)))
    for pattern, message in (("*.q_proj.*", "which Decoder needs"), ("*.nothing", "fits no tensor")):
        with pytest.raises(RequestError, match=message):
            sc.stream(plan, source, tmp_path / "other", drop=["*.inv_freq", pattern])


def _damage_index(folder, **changes):
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | changes))


def _forget_a_tensor(folder):
    placed = json.loads((folder / INDEX).read_text())["weight_map"]
    placed.popitem()
    _damage_index(folder, weight_map=placed)


def _cut_short(folder):
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(),
            r"model-00002-of.* not there",
        ),
        (_cut_short, r"model-00002-of-00003.safetensors(.|\n)*truncated"),
        (lambda folder: (folder / INDEX).write_text("{"), "is no index of tensors"),
        (lambda folder: (folder / INDEX).write_text("[]"), "is no index of tensors"),
        (lambda folder: _damage_index(folder, weight_map={}), "names no tensor"),
        (lambda folder: _damage_index(folder, weight_map={"a": "../b.safetensors"}), "no file beside it"),
        (lambda folder: _damage_index(folder, weight_map={"a": 3}), "no file beside it"),
        (
            lambda folder: _damage_index(folder, weight_map={"a": "model-00001-of-00003.safetensors"}),
            "places a in model-00001-of-00003.safetensors, the files have it in None",
        ),
        (_forget_a_tensor, "in None, the files have it in model-00003-of-00003.safetensors"),
        (lambda folder: (folder / INDEX).unlink(), "no model.safetensors.index.json"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "no safetensors file"),
        (lambda folder: [folder.rename(folder.parent / "away")], "no such file"),
    ],
)
def test_a_damaged_checkpoint_is_refused(plan, source, tmp_path, damage, message):
    damage(source)
    with pytest.raises(CheckpointError, match=message):
        sc.stream(plan, source, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_a_pickle_is_no_source(plan, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"neither a \.safetensors file nor an index"):
        sc.stream(plan, tmp_path / "model.bin", tmp_path / "half")


def test_an_existing_target_is_not_touched(plan, source, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "mine").write_text("kept")
    with pytest.raises(SecateurError, match="half exists already"):
        sc.stream(plan, source, tmp_path / "half")
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["mine"]
    with pytest.raises(RequestError, match="max_shard_bytes is 0"):
        sc.stream(plan, source, tmp_path / "other", max_shard_bytes=0)


def test_blocks_that_the_plan_drops_are_not_written(model, source, tmp_path):
    dropped = drop_blocks(model, decoder.TOKENS, count=1, blocks=["layers.*"]).plan
    assert dropped.dropped
    again = plan_of(dropped.apply(model)).after(dropped)
    for plan in (dropped, again):
        done = sc.stream(plan, source, tmp_path / str(plan.requested))
        assert len(done.dropped) == 9
        assert all(plan.drops(name) for name in done.dropped)
        require_same(read(tmp_path / str(plan.requested)), state_of(plan.apply(model)))


def test_a_tied_tensor_that_is_stored_in_a_dropped_block_lives_on(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.block.weight = self.stem.weight

        def forward(self, x):
            x = self.stem(x)
            return x + self.block(x)

    model = Shared()
    save_file({"block.weight": model.block.weight.detach()}, tmp_path / "model.safetensors")
    plan = identity_plan(model, "", {}).model_copy(update={"dropped": ("block",)})
    done = sc.stream(plan, tmp_path / "model.safetensors", tmp_path / "less")
    assert (done.tensors, done.dropped) == (1, ())
    require_same(read(tmp_path / "less"), {"stem.weight": model.stem.weight})


def test_a_failing_read_leaves_nothing_behind(plan, source, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)

    def fail(shards, name):
        if counted.reads == 5:
            raise KeyboardInterrupt
        return counted.count(shards, name)

    monkeypatch.setattr(Shards, "__getitem__", fail)
    with pytest.raises(KeyboardInterrupt):
        sc.stream(plan, source, tmp_path / "half", max_shard_bytes=5_000)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_killed_run_leaves_no_target_and_can_be_repeated(model, plan, source, tmp_path):
    (tmp_path / "plan.json").write_text(plan.to_json())
    program = (
        "import os, signal, sys, secateur as sc\n"
        "from secateur.write.shards import Shards\n"
        "read, names = Shards.__getitem__, []\n"
        "def killed(shards, name):\n"
        "    names.append(name)\n"
        "    if len(names) == 12:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(shards, name)\n"
        "Shards.__getitem__ = killed\n"
        "plan = sc.Plan.from_json(open(sys.argv[1]).read())\n"
        "sc.stream(plan, sys.argv[2], sys.argv[3], max_shard_bytes=5_000)\n"
    )
    words = [tmp_path / "plan.json", source, tmp_path / "half"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "half").exists()
    sc.stream(plan, source, tmp_path / "half")
    require_same(read(tmp_path / "half"), state_of(plan.apply(model)))


def test_files_and_plan_of_two_streams_are_not_mixed(model, plan, source, tmp_path):
    sc.stream(plan, source, tmp_path / "half", max_shard_bytes=5_000)
    other = plan_of(model, ratio=0.3)
    (tmp_path / "half" / "plan.json").write_text(other.to_json())
    with pytest.raises(CheckpointError, match=r"plan\.json belong to different models"):
        sc.load(tmp_path / "half", decoder.Decoder())


def test_the_progress_bar_is_for_terminals(plan, source, tmp_path, capfd):
    sc.stream(plan, source, tmp_path / "half")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_shard_holds_every_kind_of_element(tmp_path):
    kinds = [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn, torch.uint8]
    tensors = {str(kind): torch.ones(3, 5).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    opened = open_shards(tmp_path)
    again = tmp_path / "again.safetensors"
    write_shard(again, list(opened.stored.values()), opened.__getitem__, {"format": "pt"})
    loaded = load_file(again)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].double(), tensor.double())
    assert again.stat().st_size % 8 == sum(one.size_bytes for one in opened.stored.values()) % 8


def test_elements_of_a_packed_file_lie_at_multiples_of_their_size(tmp_path):
    values = {
        "a": torch.ones(3, dtype=torch.uint8),
        "b": torch.ones(1, dtype=torch.float64),
        "c": torch.ones(3, dtype=torch.float16),
        "d": torch.ones(1),
    }
    kinds = dict(zip(values, ("U8", "F64", "F16", "F32"), strict=True))
    (held,) = pack(
        [StoredTensor(name, kinds[name], tuple(value.shape)) for name, value in values.items()], 1000
    )
    file = tmp_path / "model.safetensors"
    write_shard(file, held, values.__getitem__, {})
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + size])
    places = {name: header[name]["data_offsets"][0] for name in values}
    assert places == {"b": 0, "d": 8, "c": 12, "a": 18}
    assert (8 + size) % 8 == 0


def test_a_value_of_another_size_than_described_is_refused(tmp_path):
    with pytest.raises(ValueError, match="w has 12 bytes, described are 8"):
        write_shard(tmp_path / "x", [StoredTensor("w", "F32", (2,))], lambda name: torch.zeros(3), {})


def test_shards_print_what_they_hold(source):
    assert str(open_shards(source)).startswith("30 tensors of ")

"""Channels cut while others train: in loops of one's own, and in the trainers that the callbacks are for."""

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.callbacks import ChannelSteps, become, spread
from secateur.errors import CheckpointError, NoEffectWarning, RequestError
from secateur.penalise import penalties

SEEN = torch.linspace(-1, 1, 64 * 8).view(64, 8)
X = torch.zeros(1, 8)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def lasso(net):
    return penalties["bn-l1"].of(net, sc.couple(net, X), 0.5)


def trained(net, steps, epochs=4, start=0, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    steps.attach(net, optimizer)
    for epoch in range(start, epochs):
        steps.begin_epoch(epoch)
        for rows in SEEN.split(16):
            optimizer.zero_grad()
            (net(rows) - rows).square().mean().backward()
            steps.pull(epoch / epochs)
            optimizer.step()
    return optimizer


def same(one, two):
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("schedule", ["linear", "geometric", "agp"])
@pytest.mark.parametrize(("budget", "value"), [("ratio", 0.7), ("macs", 0.3), ("params", 0.3)])
def test_what_is_spread_adds_up_to_what_was_asked_for(schedule, budget, value):
    cuts = spread(budget, value, (1, 2, 5), schedule)
    left = 1.0
    for cut in cuts.values():
        left *= 1 - cut[budget] if budget == "ratio" else cut[budget]
    assert list(cuts) == [1, 2, 5]
    assert left == pytest.approx(0.3)


@pytest.mark.parametrize(
    "asked",
    [
        ("channels", 0.5, (1,)),
        ("ratio", 1.0, (1,)),
        ("ratio", 0.5, (2, 1)),
        ("ratio", 0.5, ()),
        ("ratio", 0.5, (1,), "x"),
    ],
)
def test_what_makes_no_sense_is_not_spread(asked):
    with pytest.raises(RequestError):
        spread(*asked)


def test_a_cut_goes_on_as_the_hand_made_one_does():
    """The network, the optimizer and its memory after a cut are those of prune and carry."""
    net, other = small(), small()
    steps = ChannelSteps(X, {2: {"ratio": 0.5}})
    trained(net, steps, epochs=4)
    optimizer = trained(other, ChannelSteps(X, {9: {"ratio": 0.5}}), epochs=2)
    result = sc.prune(other, X, ratio=0.5)
    trained(result.model, ChannelSteps(X, {9: {"ratio": 0.5}}), 4, 2, sc.carry(optimizer, result))
    assert net[0].out_features == 8
    same(net, result.model)


def test_cuts_are_one_plan_from_the_uncut_network_and_a_run_goes_on_from_it():
    net = small()
    start = copy.deepcopy(net)
    steps = ChannelSteps(X, spread("ratio", 0.75, (1, 3), "geometric"))
    optimizer = trained(net, steps, epochs=3)
    weights, told = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    state = steps.state_dict()
    trained(net, steps, 5, 3, optimizer)
    assert net[0].out_features == 4
    again = ChannelSteps(X, spread("ratio", 0.75, (1, 3), "geometric"))
    again.prepare(start, state)
    start.load_state_dict(weights)
    second = torch.optim.SGD(start.parameters(), lr=0.05, momentum=0.9)
    second.load_state_dict(told)
    trained(start, again, 5, 3, second)
    same(net, start)
    uncut = small()
    again.prepare(uncut, again.state_dict())
    assert uncut[0].out_features == 4
    with pytest.raises(RequestError, match=r"was cut before epochs \[1, 3\], the module as it is was not"):
        ChannelSteps(X, {1: {"ratio": 0.5}}).load_state_dict(steps.state_dict())


def test_a_cut_is_recovered_before_the_training_goes_on():
    """What is trained on is what prune recovers, with the optimizer's memory of what stays."""
    data = [torch.randn(32, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    net, other, plain = small(), small(), small()
    optimizer = trained(net, steps := ChannelSteps(X, {2: {"ratio": 0.5}}, data=data, recover="refit"), 2)
    trained(plain, ChannelSteps(X, {9: {"ratio": 0.5}}), 2)
    trained(other, ChannelSteps(X, {9: {"ratio": 0.5}}), 2)
    same(net, other)
    before = optimizer.state[net[0].weight]["momentum_buffer"]
    steps.begin_epoch(2)
    result = sc.prune(other, X, ratio=0.5, data=data, recover="refit")
    same(net, result.model)
    assert [str(one) for one in steps.result.recovered] == [str(one) for one in result.recovered] != []
    (error,) = steps.result.errors
    assert error.after < 0.7 * error.before
    with torch.no_grad():
        lost, left = ((each(data[0]) - plain(data[0])).abs().mean() for each in (sliced(plain), net))
    assert left < lost
    kept = torch.as_tensor(result.plan.keep["0"])
    assert torch.equal(optimizer.state[net[0].weight]["momentum_buffer"], before[kept])
    trained(net, steps, 4, 3, optimizer)
    assert net[0].out_features == 8


def sliced(net):
    return sc.prune(net, X, ratio=0.5).model


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"recover": "refit"}, RequestError, "recovery step 'refit' needs data"),
        ({"recover": "refitt", "data": [X]}, RequestError, "did you mean 'refit'"),
        ({"criterion": "taylor"}, RequestError, "criterion taylor needs data"),
        ({"scope": "all"}, RequestError, "unknown scope 'all'"),
        ({"raito": 0.5}, TypeError, "Did you mean 'ratio'"),
        ({"macs": 0.5}, RequestError, "2 budgets were given"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused_before_the_training(how, error, message):
    with pytest.raises(error, match=message):
        ChannelSteps(X, {3: {"ratio": 0.5}}, **how)


def test_an_average_is_cut_along_and_everyone_who_holds_the_network_sees_it():
    net = small()
    holder, average = nn.ModuleDict({"net": net}), copy.deepcopy(net)
    average[0].weight.data += 1
    before = average[0].weight.clone()
    optimizer = torch.optim.AdamW(net.parameters())
    steps = ChannelSteps(X, {0: {"ratio": 0.5}}, part="net")
    steps.attach(holder, optimizer, [nn.ModuleDict({"net": average})])
    result = steps.begin_epoch(0)
    kept = torch.as_tensor(result.plan.keep["0"])
    assert torch.equal(average[0].weight, before[kept])
    assert holder["net"] is net
    assert net[0].out_features == 8
    assert {id(each) for each in net.parameters()} == {
        id(each) for each in optimizer.param_groups[0]["params"]
    }
    assert steps.begin_epoch(0) is None


def test_the_penalty_acts_on_the_network_as_it_is_after_each_cut():
    net = small()
    steps = ChannelSteps(X, {1: {"ratio": 0.25}}, penalty=lasso)
    start = net[1].weight.abs().sum().item() / 16
    trained(net, steps, epochs=4)
    assert steps.penalty.scales[0] is net[1].weight
    assert net[1].weight.abs().mean() < 0.8 * start


def test_a_cut_of_less_than_a_channel_is_said_and_not_an_error():
    net = small()
    steps = ChannelSteps(X, {0: {"ratio": 0.01}})
    steps.attach(net, None)
    with pytest.warns(NoEffectWarning, match="before epoch 0 nothing was cut"):
        assert steps.begin_epoch(0) is None
    assert net[0].out_features == 16


def test_what_is_nothing_and_what_is_another_class_is_refused():
    with pytest.raises(RequestError, match="neither cuts nor a penalty"):
        ChannelSteps(X)
    with pytest.raises(RequestError, match="cannot become"):
        become(nn.Linear(2, 2), nn.ReLU())


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(SEEN)

    def __getitem__(self, index):
        return {"x": SEEN[index]}


class Squares(nn.Module):
    """A model as the Trainer of Transformers wants it: it computes its loss."""

    _keys_to_ignore_on_save = None

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return {"loss": (self.net(x) - x).square().mean()}


@pytest.fixture
def hf_fit(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

    def fit(model, callback, **how):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=4, per_device_train_batch_size=16,
            save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=0.01,
            logging_strategy="no",
        )  # fmt: skip
        transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback]).train(**how)
        return model

    return fit


def cut_of(**how):
    return ChannelSteps(X, spread("ratio", 0.75, (1, 3), "geometric"), part="net", **how)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_transformers_cuts_saves_and_resumes_bit_by_bit(hf_fit, tmp_path):
    from secateur.callbacks.transformers import ChannelCallback

    start = Squares()
    whole = hf_fit(copy.deepcopy(start), ChannelCallback(cut_of(penalty=lasso)))
    assert whole.net[0].out_features == 4
    checkpoint = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[1]
    uncut = ChannelCallback(cut_of(penalty=lasso))
    with pytest.raises(RuntimeError, match="size mismatch for net"):
        hf_fit(copy.deepcopy(start), uncut, resume_from_checkpoint=str(checkpoint))
    again, model = ChannelCallback(cut_of(penalty=lasso)), copy.deepcopy(start)
    again.prepare(model, checkpoint)
    assert model.net[0].out_features == 8
    resumed = hf_fit(model, again, resume_from_checkpoint=str(checkpoint))
    same(whole, resumed)
    with pytest.raises(CheckpointError, match="says nothing of cuts"):
        again.prepare(model, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_penalty_reaches_the_step_of_a_trainer_of_transformers(hf_fit):
    from secateur.callbacks.transformers import ChannelCallback

    plain = hf_fit(Squares(), ChannelCallback(ChannelSteps(X, {9: {"ratio": 0.5}}, part="net")))
    pulled = hf_fit(Squares(), ChannelCallback(ChannelSteps(X, penalty=lasso, part="net")))
    assert pulled.net[1].weight.abs().sum() < plain.net[1].weight.abs().sum() - 0.5


@pytest.fixture
def lightning_fit(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small()

        def training_step(self, batch, index):
            return (self.net(batch) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def fit(callback, epochs=4, ckpt_path=None, module=None):
        module = module or Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(SEEN, 16), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    fit.make = Module
    return fit


@pytest.mark.filterwarnings("ignore")
def test_a_fit_of_lightning_cuts_and_goes_on_bit_by_bit(lightning_fit, tmp_path):
    from secateur.callbacks.lightning import ChannelCallback

    whole = lightning_fit(ChannelCallback(cut_of()))
    assert whole.net[0].out_features == 4
    lightning_fit(ChannelCallback(cut_of()), epochs=2)
    again, module = ChannelCallback(cut_of()), lightning_fit.make()
    again.prepare(module, tmp_path / "2.ckpt")
    same(whole, lightning_fit(again, module=module, ckpt_path=tmp_path / "2.ckpt"))
    with pytest.raises(RequestError, match="name the network inside of it"):
        ChannelCallback(ChannelSteps(X, {1: {"ratio": 0.5}}))


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_by_the_penalty_as_a_loop_of_ones_own_does(lightning_fit):
    from secateur.callbacks.lightning import ChannelCallback

    module = lightning_fit(ChannelCallback(ChannelSteps(X, penalty=lasso, part="net")))
    own = small()
    trained(own, ChannelSteps(X, penalty=lasso))
    for one, two in zip(module.net.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_ultralytics_cuts_network_and_average(tmp_path):
    cv2 = pytest.importorskip("cv2")
    ultralytics = pytest.importorskip("ultralytics")
    from secateur.callbacks.ultralytics import ChannelCallbacks

    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / part).mkdir(parents=True)
        for at in range(4):
            pixels = torch.full((64, 64, 3), 30, dtype=torch.uint8)
            pixels[8:24, 4 * at : 4 * at + 16] = 220
            cv2.imwrite(str(tmp_path / "images" / part / f"{at}.png"), pixels.numpy())
            label = f"0 {(4 * at + 8) / 64} 0.25 0.25 0.25\n"
            (tmp_path / "labels" / part / f"{at}.txt").write_text(label)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: box}}\n")
    image = torch.zeros(1, 3, 64, 64)

    def scales(net):
        return penalties["bn-l1"].of(net, sc.couple(net, image), 1e-3)

    model = ultralytics.YOLO("yolov8n.yaml")
    before = sum(each.numel() for each in model.model.parameters())
    steps = ChannelSteps(image, {1: {"ratio": 0.3}}, penalty=scales, check=False)
    ChannelCallbacks(steps).add_to(model)
    model.train(
        data=str(data), imgsz=64, epochs=3, batch=4, device="cpu", workers=0, project=str(tmp_path / "runs"),
        plots=False, verbose=False, amp=False, optimizer="SGD",
    )  # fmt: skip
    assert steps.done == (1,)
    after = sum(each.numel() for each in model.model.parameters())
    assert after < 0.8 * before
    assert after == steps.result.after.params
    model.predict(str(tmp_path / "images" / "val" / "0.png"), verbose=False)


@pytest.fixture
def lightning_module():
    lightning = pytest.importorskip("lightning.pytorch")
    from secateur.callbacks.lightning import CutModule

    class Module(CutModule, lightning.LightningModule):
        def __init__(self, width=16):
            super().__init__()
            self.save_hyperparameters()
            self.net = small()

        def on_save_checkpoint(self, checkpoint):
            super().on_save_checkpoint(checkpoint)
            checkpoint["own"] = 1

        def training_step(self, batch, index):
            return (self.net(batch) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Module


def _fit(module, folder, epochs, ckpt_path=None):
    import lightning.pytorch as lightning

    trainer = lightning.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
    )
    rows = torch.utils.data.DataLoader(SEEN, batch_size=16)
    trainer.fit(module, rows, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module


@pytest.mark.filterwarnings("ignore")
def test_a_lightning_checkpoint_brings_its_cut_along(lightning_module, tmp_path):
    module = lightning_module()
    for _ in range(2):
        module.net = sc.prune(module.net, X, ratio=0.3).model
    _fit(module, tmp_path, 1)
    loaded = lightning_module.load_from_checkpoint(tmp_path / "1.ckpt", weights_only=True)
    same(loaded.net, module.net)
    assert sc.Plan.of(loaded.net) == sc.Plan.of(module.net)
    same(sc.load(sc.save(loaded.net, tmp_path / "net"), small()), module.net)


@pytest.mark.filterwarnings("ignore")
def test_a_lightning_fit_goes_on_with_the_cut_of_its_checkpoint(lightning_module, tmp_path):
    module = lightning_module()
    module.net = sc.prune(module.net, X, ratio=0.3).model
    whole = _fit(copy.deepcopy(module), tmp_path, 4)
    _fit(module, tmp_path, 2)
    resumed = _fit(lightning_module(), tmp_path, 4, ckpt_path=tmp_path / "2.ckpt")
    same(resumed.net, whole.net)


def test_a_lightning_checkpoint_of_another_network_is_refused(lightning_module, tmp_path):
    module = lightning_module()
    module.net = sc.prune(module.net, X, ratio=0.3).model
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    other = lightning_module()
    other.net = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(CheckpointError, match=r"first difference: 0\.weight"):
        other.on_load_checkpoint(checkpoint)

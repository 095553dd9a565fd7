"""The parsers that are fuzzed: valid files to start from, who breaks them, and what reads them."""

import dataclasses
import gzip
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from fuzz_runs import mutators
from secateur.cli.options import inputs_of, model_arguments
from secateur.domains.classification.idx import read_idx
from secateur.domains.darknet import Darknet, load_darknet, save_weights
from secateur.domains.darknet.cfg import parse_cfg
from secateur.domains.darknet.data import check_labels, read
from secateur.domains.darknet.names import read_data, read_names
from secateur.domains.darknet.sweep import PercentRow as PercentRow
from secateur.errors import DataError
from secateur.iterative.rows import StageRow
from secateur.plans.plan import Plan
from secateur.reports.content import ModelRow as ReportRow
from secateur.reports.content import Report
from secateur.reports.formats.json import json as report_text
from secateur.reports.formats.json import read_report
from secateur.select import Budget
from secateur.sweep.channels import SweepRow
from secateur.train.checkpoint import Checkpoint, read_checkpoint, read_epoch, write_checkpoint
from secateur.train.figures import Figures
from secateur.train.history import EpochRecord
from secateur.write.checkpoint import apply_saved, load_state, read_state, save_model
from secateur.write.rows import Rows

Files = Mapping[str, bytes]


@dataclass(frozen=True, eq=False)
class Parser:
    """A parser under test.

    Attributes:
        name: What it reads.
        samples: Valid files by relative path, several of them.
        aware: For each ending of a file's name, the mutators that know the format.
        read: Reads the files in a folder.
    """

    name: str
    samples: Callable[[], Sequence[Files]]
    aware: Mapping[str, Sequence[mutators.Mutator]]
    read: Callable[[Path], object]


def net() -> nn.Module:
    """A small model with a buffer that is saved and one that is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    model.register_buffer("gain", torch.ones(3), persistent=False)
    return model


@cache
def pruned() -> Any:
    """The small model, cut."""
    return sc.prune(net(), torch.zeros(1, 1, 8, 8), ratio=0.5, check=False)


def folder_of(fill: Callable[[Path], object]) -> Files:
    """What a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name))
        return {str(p.relative_to(name)): p.read_bytes() for p in Path(name).rglob("*") if p.is_file()}


def _coco() -> list[Files]:
    image = {"id": 7, "file_name": "7.jpg", "width": 40, "height": 20}
    box = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20, 10], "iscrowd": 0}
    kinds = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}]
    data = {"images": [image, {**image, "id": 8}], "annotations": [box, box], "categories": kinds}
    return [{"instances_train.json": json.dumps(data).encode()}]


def _voc() -> list[Files]:
    text = (
        b"<annotation><filename>a.jpg</filename><size><width>40</width><height>20</height></size><object>"
        b"<name>dog</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax>"
        b"<ymax>15</ymax></bndbox></object></annotation>"
    )
    return [{"Annotations/a.xml": text, "ImageSets/Main/train.txt": b"a\n"}, {"a.xml": text}]


def _yolo() -> list[Files]:
    files = {
        "pets.data": b"classes = 2\ntrain = train.txt\nnames = pets.names\n",
        "pets.names": b"cat\ndog\n",
        "train.txt": b"images/a.jpg\nimages/b.jpg\n",
        "labels/a.txt": b"1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n",
        "labels/b.txt": b"",
    }
    unnamed = {name: text for name, text in files.items() if name != "pets.names"}
    return [files, {**unnamed, "pets.data": b"classes = 2\ntrain = images\n", "images/a.jpg": b""}]


def _matlab_element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def _matlab_matrix(kind: int, sizes: tuple[int, int], name: bytes, rest: bytes) -> bytes:
    head = _matlab_element(6, struct.pack("<2I", kind, 0)) + _matlab_element(5, struct.pack("<2i", *sizes))
    return _matlab_element(14, head + _matlab_element(1, name) + rest)


def _hands() -> list[Files]:
    corner = _matlab_matrix(6, (1, 2), b"", _matlab_element(9, struct.pack("<2d", 5.5, 20.5)))
    names = struct.pack("<HHi", 5, 4, 2) + _matlab_element(1, b"a\0b\0c\0d\0")
    hand = _matlab_matrix(2, (1, 1), b"", names + corner * 4)
    boxes = _matlab_matrix(1, (1, 2), b"boxes", hand + hand)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    packed = zlib.compress(boxes)
    both = (header + boxes, header + struct.pack("<2I", 15, len(packed)) + packed)
    image = folder_of(lambda folder: Image.new("RGB", (40, 20)).save(folder / "x.jpg"))["x.jpg"]
    return [{"annotations/x.mat": content, "images/x.jpg": image} for content in both]


def _plans() -> list[Files]:
    second = sc.prune(pruned().model, torch.zeros(1, 1, 8, 8), ratio=0.25, check=False)
    plans = (pruned().plan, second.plan.after(pruned().plan))
    return [{"plan.json": plan.to_json().encode()} for plan in plans]


def _read_plan(folder: Path) -> object:
    return apply_saved(Plan.from_json((folder / "plan.json").read_bytes()), net(), folder)


def _saved() -> list[Files]:
    new = folder_of(lambda folder: sc.save(pruned(), folder))
    old = dict(new)
    old["weights.safetensors"] = folder_of(
        lambda folder: save_file(pruned().model.state_dict(), folder / "w")
    )["w"]
    half = folder_of(lambda folder: sc.save(dataclasses.replace(pruned(), model=_halved()), folder))
    return [new, old, half]


def _halved() -> nn.Module:
    return pruned().plan.apply(net().bfloat16())


def _read_saved(folder: Path) -> object:
    sc.load(folder, net(), verify=False)
    return sc.load(folder, net())


def _packed() -> list[Files]:
    model = pruned().plan.apply(net())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand_like(parameter) < 0.9] = -0.0
    return [folder_of(lambda folder: save_model(model, pruned().plan, folder, packed=True))]


def _streamed() -> list[Files]:
    def fill(folder: Path) -> None:
        save_file(net().state_dict(), folder / "whole.safetensors")
        sc.stream(pruned().plan, folder / "whole.safetensors", folder / "half", max_shard_bytes=64)

    made = folder_of(fill)
    return [{name.removeprefix("half/"): text for name, text in made.items() if name.startswith("half/")}]


def _pickles() -> list[Files]:
    def fill(folder: Path) -> None:
        torch.save(net().state_dict(), folder / "w.pth")
        torch.save(net().state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)

    made = folder_of(fill)
    return [{"w.pth": made["w.pth"]}, {"w.pth": made["old.pth"]}]


def _read_pickle(folder: Path) -> None:
    load_state(net(), read_state(folder / "w.pth"), "w.pth")


def _checkpoints() -> list[Files]:
    record = EpochRecord(1, 0.1, {"loss": 1.0}, {}, Figures({"accuracy": 0.75}, 4), gammas=(1, 2))
    state = net().state_dict()
    made = Checkpoint(state, {"0.weight|momentum_buffer": state["0.weight"]}, {"lr": 0.1}, (record,), {})
    new = folder_of(lambda folder: write_checkpoint(folder / "run", made))
    new = {name.removeprefix("run/epoch-0001/"): text for name, text in new.items() if "epoch" in name}
    told = json.loads(new["state.json"])
    old = {key: told[key] for key in told if key not in ("digest", "values")}
    return [new, {**new, "state.json": json.dumps(old).encode()}]


def _read_run(folder: Path) -> None:
    read_epoch(folder, ["weights"])
    read_checkpoint(folder)


_ROWS: dict[str, tuple[Any, str, Mapping[str, Any]]] = {
    "channels": (SweepRow, "count", {"count": 1, "accuracy": 0.5, "per_class_accuracy": [0.5, None],
                                     "removed": [3]}),
    "percents": (PercentRow, "percent", {"percent": 0.1, "score": 0.5, "map": None, "params": 9, "macs": 9,
                                         "limit": 0.8}),
    "steps": (StageRow, "name", {"name": "step-01 cut", "step": 1, "stage": "cut", "asked": 0.5,
                                 "removed": 0.5, "params": 9, "macs": 9, "accuracy": 0.5, "loss": 1.0,
                                 "seconds": 1.0, "kept_epoch": None}),
}  # fmt: skip


def _rows() -> list[Files]:
    opening = json.dumps({"sweep": "channels", "data": None}) + "\n"
    return [{f"{name}.jsonl": (opening + (json.dumps(row) + "\n") * 3).encode()}
            for name, (_, _, row) in _ROWS.items()]  # fmt: skip


def _read_rows(folder: Path) -> None:
    for path in folder.iterdir():
        kind, key, _ = _ROWS[path.stem]
        with Rows(path, {"sweep": "channels", "data": None}, key, kind) as rows:
            for row in sorted(rows.known):
                kind(**rows.known[row])


def _idx() -> list[Files]:
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + bytes(24)
    return [{"images": content}, {"images": gzip.compress(content)}]


def _cfg() -> list[Files]:
    small = (
        "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\n"
        "pad=1\nactivation=leaky\n[maxpool]\nsize=2\nstride=2\n[convolutional]\nfilters=14\nsize=1\n"
        "activation=linear\n[route]\nlayers=-1\n[shortcut]\nfrom=-2\n[upsample]\nstride=2\n[dropout]\n"
        "probability=0.5\n[yolo]\nmask=0,1\nanchors=1,2, 3,4\nclasses=2\nnum=2\n"
    )
    return [{"net.cfg": small.encode()}]


def _read_cfg(folder: Path) -> object:
    text = (folder / "net.cfg").read_bytes().decode("utf-8", "surrogateescape")
    return Darknet(parse_cfg(text, "net.cfg"))


def _weights() -> list[Files]:
    model = _read_cfg_text(_cfg()[0]["net.cfg"])
    made = folder_of(lambda folder: save_weights(model, folder / "net.weights"))
    return [{**_cfg()[0], "net.weights": made["net.weights"]}]


def _read_cfg_text(text: bytes) -> Darknet:
    return Darknet(parse_cfg(text.decode(), "net.cfg"))


def _options() -> list[Files]:
    inputs = "--input 1,3,8,8\n--input input_ids=1,16:int64;mask=1,16:bool\n"
    return [{"words.txt": f"{inputs}--arg width=0.25\n--macs 50%\n--memory 2MB\n".encode()}]


def _read_options(folder: Path) -> None:
    text = (folder / "words.txt").read_bytes().decode("utf-8", "surrogateescape")
    for line in text.split("\n"):
        option, _, word = line.partition(" ")
        if option == "--input":
            inputs_of(word, torch.device("cpu"))
        elif option == "--arg":
            model_arguments([word])
        elif option in ("--macs", "--memory"):
            Budget.of(**{option[2:]: word})


def _reports() -> list[Files]:
    row = ReportRow("dense", 0.98, 9, 9, 9, 3.4)
    return [
        {"report.json": report_text(Report("VGG", "2026", "secateur", "zoo:vgg11", stages=(row,))).encode()}
    ]


_SAVED = {".json": (mutators.tree,), ".safetensors": (mutators.tensors, mutators.integers)}
_WORDS = {"": (mutators.words,)}

PARSERS: dict[str, Parser] = {
    parser.name: parser
    for parser in (
        Parser("coco", _coco, {"": (mutators.tree,)}, lambda folder: _read_labels(folder, "coco")),
        Parser("voc", _voc, {".xml": (mutators.xml,), ".txt": (mutators.words,)},
               lambda folder: _read_labels(folder, "voc")),
        Parser("yolo", _yolo, _WORDS, lambda folder: _read_yolo(folder)),
        Parser("oxford-hand", _hands, {".mat": (mutators.matlab,), ".jpg": (mutators.integers,)},
               lambda folder: _read_labels(folder, "oxford-hand")),
        Parser("plan", _plans, {"": (mutators.tree,)}, _read_plan),
        Parser("saved", _saved, _SAVED, _read_saved),
        Parser("packed", _packed, _SAVED, _read_saved),
        Parser("streamed", _streamed, _SAVED, _read_saved),
        Parser("pickle", _pickles, {"": (mutators.integers,)}, _read_pickle),
        Parser("checkpoint", _checkpoints, _SAVED, _read_run),
        Parser("rows", _rows, {"": (mutators.rows,)}, _read_rows),
        Parser("idx", _idx, {"": (mutators.gzipped(mutators.integers),)},
               lambda folder: read_idx(folder / "images")),
        Parser("cfg", _cfg, _WORDS, _read_cfg),
        Parser("weights", _weights, {".cfg": (mutators.words,), ".weights": (mutators.integers,)},
               lambda folder: load_darknet(folder / "net.cfg", folder / "net.weights")),
        Parser("options", _options, _WORDS, _read_options),
        Parser("report", _reports, {"": (mutators.tree,)},
               lambda folder: read_report(folder / "report.json")),
    )
}  # fmt: skip


def _read_yolo(folder: Path) -> object:
    data = read_data(folder / "pets.data")
    if "names" in data.values:
        read_names(data.find("names"))
    return _read_labels(folder / "pets.data", "yolo")


def _read_labels(source: Path, form: str) -> None:
    found = read(source, form, strict=False)
    with suppress(DataError):  # most often that the images are not there
        check_labels(found)

"""Networks of Ultralytics: files come in without running code, and go out such that they need no secateur."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.domains.ultralytics import open_network
from secateur.domains.ultralytics.exporting import MARK
from secateur.errors import CheckpointError, ExportError, RequestError, UnwrapWarning
from secateur.sources import build, open_model

ultralytics = pytest.importorskip("ultralytics")

BLOCKED = """
import sys
sys.modules["secateur"] = None
import torch, ultralytics
yolo = ultralytics.YOLO(sys.argv[1])
x = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(yolo.model(x)[0], sys.argv[3])
print(len(yolo.predict(x[:1], verbose=False)))
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_opens_where_there_is_no_secateur_and_computes_the_same(cut, half, tmp_path):
    x = torch.rand(3, 3, 96, 64)
    torch.save(x, tmp_path / "x.pt")
    files = [str(half), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(files[2]), cut.model.eval()(x)[0])


def test_a_file_holds_names_of_ultralytics_and_torch_alone(half):
    names = torch.serialization.get_unsafe_globals_in_checkpoint(half)
    assert "ultralytics.nn.modules.block.C2PSA" in names
    assert all(name.startswith(("ultralytics.", "torch.", "__builtin__", "collections.")) for name in names)


def test_writing_changes_nothing_and_marks_once(cut, half, image):
    assert MARK not in str(cut.model.yaml)
    again = ultralytics.YOLO(half)
    assert str(again.model.yaml).count(MARK) == 1
    with pytest.warns(UnwrapWarning, match="YOLO was unwrapped"):
        sc.export(again, half.with_name("again.pt"), format="ultralytics", example_inputs=image)
    assert str(ultralytics.YOLO(half.with_name("again.pt")).model.yaml).count(MARK) == 1


def test_corrected_code_is_refused_and_not_corrected_where_asked(tiny, image, cut, tmp_path):
    corrected = sc.prune(ultralytics.YOLO(tiny).model, image, ratio=0.4, check=False)
    with pytest.raises(ExportError, match="corrected after the cut") as caught:
        sc.export(corrected, tmp_path / "no.pt", format="ultralytics")
    assert "model.6: C2PSA" in str(caught.value)
    assert "corrections=False" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert corrected.plan.corrections
    assert not cut.plan.corrections


def test_foreign_parts_are_refused(cut, tmp_path):
    from secateur.capture.copies import copy_module

    model = copy_module(cut.model)
    model.held = sc.errors.SecateurError("mine")
    with pytest.raises(ExportError, match=r"holds secateur\.errors\.SecateurError"):
        sc.export(model, tmp_path / "no.pt", format="ultralytics", example_inputs=cut.example_inputs)
    with pytest.raises(ExportError, match="a network of Ultralytics, and Linear is none"):
        sc.export(nn.Linear(2, 2), tmp_path / "no.pt", format="ultralytics", example_inputs=torch.zeros(1, 2))
    assert not list(tmp_path.iterdir())


def test_a_yolo_is_taken_and_nothing_is_trained(tiny, image, monkeypatch):
    yolo = ultralytics.YOLO(tiny)
    monkeypatch.setattr(type(yolo), "train", lambda *_, **__: pytest.fail("a training began"))
    before = {name: one.clone() for name, one in yolo.model.state_dict().items()}
    with pytest.warns(UnwrapWarning, match="YOLO was unwrapped: the result is a plain DetectionModel"):
        result = sc.prune(yolo, image, ratio=0.3, check=False)
    assert result.after.params < result.before.params
    assert isinstance(yolo, ultralytics.YOLO)
    assert all(torch.equal(one, before[name]) for name, one in yolo.model.state_dict().items())


def test_a_yolo_of_an_exported_file_is_refused(image, tmp_path):
    (tmp_path / "half.onnx").touch()
    with pytest.raises(RequestError, match=r"YOLO holds .*half.onnx, which is no module"):
        sc.prune(ultralytics.YOLO(tmp_path / "half.onnx", task="detect"), image, ratio=0.5)


def test_sources_open_yaml_and_pt(tiny, half, cut):
    built = build(f"ultralytics:{tiny}", {"imgsz": 64})
    assert built.input_shape == (1, 3, 64, 64)
    assert type(built.model).__name__ == "DetectionModel"
    opened = open_model(f"ultralytics:{half}")
    expected = cut.model.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in opened.model.state_dict().items())
    assert sc.Plan.of(opened.model) == cut.plan
    assert build("ultralytics:yolov8n-cls.yaml", {}).input_shape == (1, 3, 224, 224)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Constructed:
    """Asks for an allowed class with a YAML that holds code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        layers = {"nc": 2, "activation": f"open({str(self.path)!r}, 'w')", "backbone": [], "head": []}
        layers["backbone"] = [[-1, 1, "Conv", [8, 3, 2]]]
        layers["head"] = [[[0], 1, "Detect", ["nc"]]]
        return ultralytics.nn.tasks.DetectionModel, (layers,)


@pytest.mark.parametrize("where", ["beside", "inside", "constructed"])
def test_a_foreign_pt_runs_nothing(half, tmp_path, where):
    held = torch.load(half, weights_only=False)
    evil, mark = tmp_path / "evil.pt", tmp_path / "ran"
    if where == "beside":
        held["more"] = Bomb(mark)
    elif where == "constructed":
        held["more"] = Constructed(mark)
    else:
        held["model"].more = Bomb(mark)
    torch.save(held, evil)
    with pytest.raises(CheckpointError, match=r"cannot open .*evil.pt"):
        open_network(str(evil))
    assert not mark.exists()
    Bomb(mark).__reduce__()[0](mark, "w").close()
    assert mark.exists()


def test_what_is_allowed_for_ultralytics_is_not_allowed_for_others(half):
    before = set(torch.serialization.get_safe_globals())
    open_network(str(half))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(half, weights_only=True)


def test_a_foreign_yaml_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    text = f"nc: 2\nactivation: open({str(mark)!r}, 'w')\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n"
    (tmp_path / "evil.yaml").write_text(text + "  - [[0], 1, Detect, [nc]]\n")
    with pytest.raises(CheckpointError, match="unsupported activation"):
        open_network(str(tmp_path / "evil.yaml"))
    (tmp_path / "call.yaml").write_text(
        "nc: 2\nbackbone:\n  - [-1, 1, load_checkpoint, [x.pt]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"
    )
    with pytest.raises(CheckpointError, match="not a permitted model layer"):
        open_network(str(tmp_path / "call.yaml"))
    assert not mark.exists()


def test_nothing_is_downloaded():
    with pytest.raises(RequestError, match=r"there is no file yolo11n.pt"):
        build("ultralytics:yolo11n.pt", {})
    with pytest.raises(RequestError, match="would download weights of resnet18"):
        build("ultralytics:yolo11-cls-resnet18.yaml", {})
    with pytest.raises(RequestError, match="no network of Ultralytics"):
        build("ultralytics:https://example.com/x.pt", {})
    with pytest.raises(RequestError, match=r"there is no file no_such\.yaml"):
        build("ultralytics:no_such.yaml", {})


@pytest.mark.filterwarnings("ignore")
def test_their_exporter_writes_what_onnxruntime_computes_alike(cut, half, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    import shutil

    copied = shutil.copy(half, tmp_path / "half.pt")
    path = ultralytics.YOLO(copied).export(format="onnx", imgsz=64, dynamic=True, simplify=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 64, 96)
    (got,) = session.run(None, {"images": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), cut.model.eval()(x)[0], rtol=1e-3, atol=1e-3)

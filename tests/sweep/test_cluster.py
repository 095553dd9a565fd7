"""The engine ray gives the numbers of the local one."""

import copy
import sys
from types import ModuleType

import pytest
import torch

from secateur.errors import CaptureError, RequestError, SecateurError
from secateur.sources import open_model
from secateur.sweep import RayEngine, block_sweep, channel_sweep, sensitivity
from secateur.train import Work


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"pip install 'secateur\[ray\]'"):
        RayEngine()


def test_no_worker_is_refused():
    with pytest.raises(RequestError, match="workers is 0"):
        RayEngine(0)


class FakeRay(ModuleType):
    """As much of Ray as starting and stopping needs."""

    def __init__(self, connected):
        super().__init__("ray")
        self.connected, self.asked = connected, []

    def is_initialized(self):
        return self.connected

    def init(self, **options):
        self.connected = True
        self.asked.append(options)

    def shutdown(self):
        self.connected = False

    def cluster_resources(self):
        return {"CPU": 3.0}


@pytest.mark.parametrize("connected", [False, True])
def test_only_a_cluster_of_its_own_is_stopped(monkeypatch, connected):
    ray = FakeRay(connected)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with RayEngine(address="local") as engine:
        assert engine.count == 3
        assert ray.connected
    assert ray.connected is connected
    assert [options["address"] for options in ray.asked] == ([] if connected else ["local"])
    with pytest.raises(RequestError, match="4 workers were asked for, the Ray cluster has 3 CPUs"):
        RayEngine(4)
    assert ray.connected is connected
    monkeypatch.setattr("secateur.sweep.cluster.choose_device", torch.device)
    with pytest.raises(RequestError, match="the Ray cluster has 0 GPUs"):
        RayEngine(device="cuda:0")


@pytest.fixture(scope="module")
def ray():
    """A cluster of one worker on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_both_engines_give_the_same_numbers_and_go_on(ray, resnet, images, tmp_path):
    files = {"device": "cpu", "batch_size": 50, "fork_size": 100}
    with RayEngine(device="cpu") as engine:
        for name, run in {
            "channels": lambda **more: (
                channel_sweep(resnet, "layer3.0.conv1", images, (1, 8, 20), **more).rows
            ),
            "curves": lambda **more: (
                sensitivity(
                    resnet, images, (0.5,), by="groups", layers=["conv1", "layer2.0.conv1"], **more
                ).by_layer
            ),
            "blocks": lambda **more: block_sweep(resnet, images, **more),
        }.items():
            file = tmp_path / f"{name}.jsonl"
            local = run(**files)
            assert run(**files, engine=engine, rows=file) == local
            first, *rows = file.read_text().splitlines(keepends=True)
            file.write_text("".join([first, *rows[:-1]]))
            assert run(**files, engine=engine, rows=file) == local
            assert sorted(file.read_text().splitlines()[1:]) == sorted(map(str.rstrip, rows))
        silent = copy.deepcopy(resnet)
        with torch.no_grad():
            silent.layer1[0].conv1.weight[0] = float("nan")
        with pytest.raises(CaptureError, match=r"layer1\.0"):
            channel_sweep(silent, "layer1.0.conv1", images, (1,), criterion="random", engine=engine, **files)
        ray.kill(engine._workers[0])
        with pytest.raises(SecateurError, match="a worker of the Ray cluster died"):
            channel_sweep(resnet, "layer1.0.conv1", images, (1,), engine=engine, **files)
    assert ray.is_initialized(), "who connected before stays connected"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_models_tasks_and_data_of_a_file_go_along_to_the_workers(ray, tmp_path):
    (tmp_path / "beside_it.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))\n"
    )
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom beside_it import Net\nfrom secateur.train import Task\n\n\n"
        "class Points(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n        return 20\n\n"
        "    def __getitem__(self, at):\n"
        "        return torch.tensor([at / 20, 1.0]), torch.tensor(float(at))\n\n\n"
        "class Distance(Task):\n    lower_is_better = True\n\n"
        "    def loss(self, model, output, batch):\n        return {}\n\n"
        "    def scores(self, output, batch):\n        return {'error': (output[:, 0] - batch[1]).abs()}\n"
    )
    file = tmp_path / "mine.py"
    torch.manual_seed(0)
    model = open_model(f"{file}:Net").model
    work = Work.open(f"{file}:Distance", f"{file}:Points")
    asked = {"task": work.task, "data": [torch.rand(8, 2)], "device": "cpu"}
    local = sensitivity(model, work.test, (0.5,), **asked)
    with RayEngine(device="cpu") as engine:
        assert sensitivity(model, work.test, (0.5,), engine=engine, **asked).by_layer == local.by_layer
    del sys.modules["beside_it"]

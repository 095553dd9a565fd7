"""Models that write while they run: what they leave behind stays with our copies."""

import math
import random
import threading
import weakref
from functools import partial

import nets_writers
import numpy as np
import pytest
import snapshot
import torch
from nets_writers import WRITERS, Net
from watched import all_verbs, require_untouched

import secateur as sc
from secateur.capture.caches import forget
from secateur.errors import SecateurError

X = torch.randn(8, 6)
DATA = [(torch.randn(16, 6), torch.zeros(16).long()) for _ in range(2)]


def everything(model):
    """What models, their code and the process hold."""
    return {
        "model": snapshot.of_model(model),
        "code": snapshot.of_code(nets_writers, nets_writers.OfClass, nets_writers.ones_like),
        "process": snapshot.of_process(),
        "hook": snapshot.of_value(model.held() if hasattr(model, "held") else None),
    }


def cut(model, **options):
    return sc.prune(model, X, channels={"a": 0.5}, **options)


@pytest.mark.parametrize("name", WRITERS)
def test_no_verb_leaves_what_a_forward_writes(name, tmp_path):
    model = WRITERS[name]().eval()
    first, second = all_verbs(model, X, DATA, {"channels": {"a": 0.5}}, tmp_path)
    require_untouched(partial(everything, model), first, second)


@pytest.mark.parametrize("name", WRITERS)
def test_nor_after_a_run_of_the_user(name):
    model = WRITERS[name]().eval()
    with torch.no_grad():
        model(X)
    nets_writers.cached_ones.cache_clear()
    torch.use_deterministic_algorithms(False)
    require_untouched(partial(everything, model), {"prune": partial(cut, model)}, {})


def test_the_time_of_a_model_is_that_of_a_copy():
    model = WRITERS["MaxNorm"]().eval()
    verbs = {"prune by time": lambda: sc.prune(model, X, latency_ms="99%")}
    require_untouched(partial(everything, model), verbs, {})


def test_what_these_models_leave_behind_is_seen():
    """Each of them changes what the snapshot holds when the user runs it."""
    for name, make in WRITERS.items():
        model = make().train(name == "InTraining")
        if name == "Second":
            model(X)
        nets_writers.cached_ones.cache_clear()
        before = everything(model)
        hits = nets_writers.cached_ones.cache_info()
        model(X)
        is_cached = nets_writers.cached_ones.cache_info() != hits
        assert everything(model) != before or is_cached, name
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["MaxNorm", "Masked", "SpectralNorm", "OfModule", "OfClass", "OfFunction"])
def test_they_are_cut_and_right(name):
    result = cut(WRITERS[name]())
    assert result.verdict.exact
    assert result.model.norm.num_features == 8
    assert result.model.train()(X).shape == (8, 3)


def test_tables_of_a_proof_are_not_met_by_the_users_next_run():
    model = WRITERS["OfModule"]()
    cut(model)
    model.train()(X).sum().backward()
    assert type(nets_writers.TABLE) is torch.Tensor
    assert not nets_writers.TABLE.is_inference()


def test_threads_draw_on_while_another_prunes():
    """Each generator of the process goes on as if nothing had happened beside it."""
    model, done = Net(), threading.Event()

    def work():
        for _ in range(3):
            cut(model, criterion="taylor", data=DATA, recover=["absorb", "refit"])
        done.set()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = [(torch.rand(1).item(), np.random.rand(), random.random()) for _ in range(50_000)]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    thread = threading.Thread(target=work)
    thread.start()
    drawn = []
    while not done.is_set() and len(drawn) < len(expected):
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        done.wait(1e-4)
    thread.join()
    assert len(drawn) > 20
    assert drawn == expected[: len(drawn)]


def test_clearing_caches_breaks_no_tuple_that_another_thread_fills():
    """A tuple that somebody else holds cannot be filled; `gc.get_objects` would hold all there are."""
    alive, failures, done = torch.zeros(1), [], threading.Event()

    def fill():
        while not done.is_set():
            try:
                tuple(number for number in range(50))
            except SystemError as error:
                failures.append(error)

    threads = [threading.Thread(target=fill) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        forget([weakref.ref(alive)])
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_switches_and_tables_are_back_after_threads():
    kinds = [WRITERS[name] for name in ("OfFunction", "OfClass", "MaxNorm", "Switches", "Draws")] * 2
    models = [kind().eval() for kind in kinds]
    before = snapshot.of_process(), snapshot.of_code(nets_writers, nets_writers.OfClass)
    failures = []

    def work(model):
        try:
            cut(model)
        except SecateurError:
            pass  # a refusal puts everything back, too
        except Exception as error:  # noqa: BLE001 - told by the assert below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (snapshot.of_process(), snapshot.of_code(nets_writers, nets_writers.OfClass)) == before


@pytest.mark.parametrize("kind", ["autocast", "mixed", "inference"])
def test_other_precisions_are_proven(kind):
    class Mixed(Net):
        def forward(self, x):
            if kind == "autocast":
                with torch.autocast("cpu", torch.bfloat16):
                    return self.b(self.norm(self.a(x)).relu()).float()
            h = self.a(x.to(self.a.weight.dtype)).float()
            return self.b(self.norm(h).relu().to(self.b.weight.dtype))

    with torch.inference_mode(kind == "inference"):
        model = Mixed()
    if kind == "mixed":
        model.a.bfloat16(), model.b.bfloat16()
    result = cut(model)
    assert result.verdict.passed
    assert math.isfinite(result.verdict.relative_error)
    assert len(result.model.a.bias) == 8
    result.model(X).float().sum().backward()


def test_what_is_made_in_inference_mode_can_be_trained(tmp_path):
    with torch.inference_mode():
        steps = cut(Net(), data=DATA, recover=["absorb", "refit", "batch-norm"])
        made = [steps.model, sc.recover(cut(Net()), DATA).model, steps.plan.apply(Net())]
        made.append(sc.load(sc.save(steps, tmp_path / "half"), Net()))
    for model in made:
        model.train()(X).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_a_class_came_to_hold_after_a_cut_is_kept_by_the_next():
    class Late(nets_writers.Net):
        def forward(self, x):
            type(self).seen = getattr(type(self), "seen", 0) + 1
            return super().forward(x)

    cut(Late().eval())
    assert not hasattr(Late, "seen")
    model = Late().eval()
    for _ in range(2):
        model(X)
    cut(model)
    assert Late.seen == 2

"""Networks of PyTorch's libraries that write while they run: no verb leaves what they write."""

import warnings
from pathlib import Path

import pytest
import snapshot
import torch
from nets_library_writers import WRITERS
from watched import all_verbs, of_model_and_process, require_untouched

from secateur.capture.inputs import as_call

PAGE = Path(__file__).parents[2] / "docs" / "proof.md"
PACKAGES = ("timm", "transformers", "ultralytics")


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if one.slow else []) for name, one in WRITERS.items()]
)
def writer(request):
    """A writer that can be made here."""
    found = WRITERS[request.param]
    if found.package in PACKAGES:
        pytest.importorskip(found.package)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated: people have them all the same
        yield found


def test_no_verb_leaves_what_a_library_writes(writer, tmp_path):
    model, inputs = writer.make()
    model.train(writer.training)
    request = {"ratio": 0.25, "scope": "local"}
    first, second = all_verbs(model, inputs, [inputs, inputs], request, tmp_path)
    result, done = require_untouched(lambda: of_model_and_process(model), first, second)
    assert {"couple", "measure", "latency", "prune", "check", "apply", "save and load"} <= set(done)
    assert result.after.params < result.before.params


def test_what_the_library_writes_is_seen(writer):
    model, inputs = writer.make()
    model.train(writer.training)
    before = snapshot.of_model(model)
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        model(*args, **kwargs)
    assert snapshot.of_model(model) != before


def test_the_page_lists_them():
    rows = [f"| {name} | {one.package} | {one.writes} |" for name, one in WRITERS.items()]
    assert "\n".join(rows) in PAGE.read_text()

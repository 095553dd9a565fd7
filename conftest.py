"""What holds for tests, examples in docstrings and those in Markdown pages, which run in an empty folder."""

import pytest
import torch

_WARNS_ITSELF = {"lightning.md"}
"""Pages about libraries that warn of themselves."""


def pytest_collection_modifyitems(items):
    """Let pages about such libraries run."""
    for item in items:
        if item.path.name in _WARNS_ITSELF:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def _seeded():
    """Nothing depends on what ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _pages_run_in_an_empty_folder(request, tmp_path, monkeypatch):
    if request.node.path.suffix == ".md":
        monkeypatch.chdir(tmp_path)

"""Examples in Markdown pages run in an empty folder of their own."""

import pytest


@pytest.fixture(autouse=True)
def _pages_run_in_an_empty_folder(request, tmp_path, monkeypatch):
    if request.node.path.suffix == ".md":
        monkeypatch.chdir(tmp_path)

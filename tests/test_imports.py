"""Every module can be imported by its path: no function or registry hides a module of the same name."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import secateur


def test_no_name_hides_a_module():
    for info in pkgutil.walk_packages(secateur.__path__, "secateur."):
        importlib.import_module(info.name)
    hidden = {
        name: type(held).__name__
        for name, module in sys.modules.items()
        if name.startswith("secateur.")
        and (held := getattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], None))
        is not module
    }
    assert hidden == {}


def test_the_public_verbs_are_functions():
    for name in ("couple", "measure", "plan", "recover", "carry", "pair", "explain", "prune"):
        assert callable(getattr(secateur, name))


def _in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_are_there_when_they_are_asked_for():
    code = (
        "import sys, secateur; early = 'torch' in sys.modules; from secateur import errors;"
        "names = [name for name in secateur.__all__ if not hasattr(secateur, name)];"
        "print(early, names, secateur.train.FitConfig.__name__, 'prune' in dir(secateur))"
    )
    assert _in_a_fresh_process(code) == "False [] FitConfig True\n"
    scope = {}
    exec("from secateur import *", scope)
    assert set(secateur.__all__) <= set(scope)
    assert not hasattr(secateur, "nonsense")


def test_the_first_use_draws_no_random_numbers():
    """`rich` draws one when it is imported, which would shift what a seeded script draws afterwards."""
    code = (
        "import random, sys, secateur; random.seed(0); before = random.getstate(); secateur.couple;"
        "print('rich.style' in sys.modules, random.getstate() == before)"
    )
    assert _in_a_fresh_process(code) == "True True\n"


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["darknet", "--help"], ["prun"]])
def test_what_needs_no_torch_imports_none(words):
    code = (
        f"import contextlib, sys; from secateur.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n"
        "print('torch' in sys.modules)"
    )
    assert _in_a_fresh_process(code).endswith("False\n")

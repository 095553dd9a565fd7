"""Every module can be imported by its path: no function or registry hides a module of the same name."""

import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

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


SLOW = {
    "lightning",
    "lightning_fabric",
    "matplotlib",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
    "torchmetrics",
    "torchvision",
    "transformers",
    "ultralytics",
}
"""What costs a tenth of PyTorch and more to import."""


def _imported(code, names):
    """Which of some modules a fresh process has imported after running code."""
    after = f"\nimport sys; print(*sorted(set(sys.modules) & {set(names)}), sep=' ')"
    return _in_a_fresh_process(code + after).splitlines()[-1].split()


def test_the_package_itself_imports_nothing():
    others = {"numpy", "pydantic", "rich", "torch", "typer", "yaml", *SLOW}
    assert _imported("import secateur; dir(secateur); secateur.__all__", others) == []


def test_to_couple_imports_neither_what_cuts_nor_what_reports():
    others = {"pydantic", "rich", "safetensors", "secateur.plans", "secateur.proof", "secateur.write", *SLOW}
    assert _imported("import secateur; secateur.couple", {"torch", *others}) == ["torch"]


@pytest.mark.parametrize("name", ["prune", "iterate", "export", "report", "load", "stream", "mask"])
def test_no_public_name_imports_what_only_some_work_needs(name):
    assert _imported(f"import secateur; secateur.{name}", SLOW) == []


def test_no_command_imports_what_only_its_work_needs():
    assert _imported("from secateur.cli.app import each_command; assert each_command()", SLOW) == []


_VERBS = (
    "import sys; start = 'secateur.cli.commands.'\n"
    "verbs = {'.'.join(name.split('.')[3:]) for name in sys.modules if name.startswith(start)}"
    " - {'darknet', 'mask'}; print(*verbs)"
)


@pytest.mark.parametrize("words", [["inspect", "zoo:none"], ["darknet", "evaluate", "none.cfg"]])
def test_a_command_imports_no_other(words):
    code = (
        "import contextlib; from secateur.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n{_VERBS}"
    )
    assert _in_a_fresh_process(code).splitlines()[-1] == ".".join(words[:-1])


@pytest.mark.parametrize("words", [["stream", "--help"], ["darknet", "evaluate", "--help"]])
def test_help_imports_no_command(words):
    code = (
        "import contextlib; from secateur.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n{_VERBS}"
    )
    assert _in_a_fresh_process(code).splitlines()[-1] == ""


def test_every_public_name_is_what_the_public_module_says():
    from secateur import public

    assert secateur.__all__ == public.__all__
    assert {name: getattr(secateur, name) for name in secateur.__all__} == {
        name: getattr(public, name) for name in public.__all__
    }
    assert set(public.__all__) <= set(dir(secateur))


def test_a_public_class_can_be_pickled_and_read_where_nothing_is_imported_yet(tmp_path):
    ask = secateur.Ask.of(ratio=0.5)
    (tmp_path / "ask").write_bytes(pickle.dumps(ask))
    code = (
        f"import pickle, pathlib; print(pickle.loads(pathlib.Path({str(tmp_path / 'ask')!r}).read_bytes()))"
    )
    assert _in_a_fresh_process(code) == f"{ask}\n"


def test_a_package_without_its_sources_has_the_same_names(monkeypatch):
    homes = secateur._homes.__wrapped__
    monkeypatch.setattr(type(secateur.__loader__), "get_source", lambda *_: None)
    assert {name: home for name, (_, home) in homes().items()} == {name: name for name in secateur.__all__}


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
        "import random, sys, secateur; random.seed(0); before = random.getstate(); secateur.prune;"
        "print('rich.style' in sys.modules, random.getstate() == before)"
    )
    assert _in_a_fresh_process(code) == "True True\n"
    places = [path for path in Path(secateur.__path__[0]).rglob("*.py") if "\nfrom rich" in path.read_text()]
    assert places == []  # only secateur.rich imports it, indented


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["darknet", "--help"], ["prun"]])
def test_what_needs_no_torch_imports_none(words):
    code = (
        f"import contextlib, sys; from secateur.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n"
        "print('torch' in sys.modules)"
    )
    assert _in_a_fresh_process(code).endswith("False\n")

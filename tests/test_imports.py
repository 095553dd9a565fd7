"""Every module can be imported by its path: no function or registry hides a module of the same name."""

import importlib
import pkgutil
import sys

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

import subprocess
import sys
from itertools import pairwise

import pytest

from secateur.errors import RequestError
from secateur.iterative import Recipe
from secateur.mask.schedule import step_schedules
from secateur.train import FitConfig

TUNE = FitConfig(epochs=1)


def recipe(**options):
    return Recipe(TUNE, **({"ratio": 0.8} | options))


@pytest.mark.parametrize("name", step_schedules)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_schedules_rise_at_each_step_and_end_at_what_was_asked(name, steps):
    shares = [0.0, *recipe(schedule=name, steps=steps).shares(1000)]
    assert all(after > before for before, after in pairwise(shares))
    assert shares[-1] == pytest.approx(0.8)


def test_each_schedule_keeps_its_promise():
    linear, geometric, agp = (
        [0.0, *recipe(schedule=name, steps=5).shares(1000)] for name in ("linear", "geometric", "agp")
    )
    of_the_whole = [after - before for before, after in pairwise(linear)]
    assert of_the_whole == pytest.approx([0.16] * 5)
    of_the_rest = [(b - a) / (1 - a) for a, b in pairwise(geometric)]
    assert of_the_rest == pytest.approx([1 - 0.2 ** (1 / 5)] * 5)
    assert agp == pytest.approx([0.8 * (1 - (1 - step / 5) ** 3) for step in range(6)])


@pytest.mark.parametrize("name", step_schedules)
def test_floors_of_all_steps_together_are_the_floor(name):
    asked = recipe(schedule=name, steps=4, min_keep=0.15)
    shares, kept = [0.0, *asked.shares(1000)], 1.0
    for before, after in pairwise(shares):
        kept *= asked.floors(before, after, shares[-1]).share
    assert kept == pytest.approx(0.15)


def test_counts_are_shares_of_what_there_is():
    by_share = recipe(ratio=None, macs=0.25, steps=3).shares(4000)
    assert recipe(ratio=None, macs=1000, steps=3).shares(4000) == pytest.approx(by_share)
    assert recipe(ratio=None, macs="25%", steps=3).shares(4000) == pytest.approx(by_share)
    assert recipe(ratio=None, size_bytes="1kB", steps=3).shares(4000) == pytest.approx(by_share)
    with pytest.raises(RequestError, match="params budget is 9,000, the uncut model has 4,000"):
        recipe(ratio=None, params=9000).shares(4000)
    with pytest.raises(RequestError, match="params=4000 asks for nothing"):
        recipe(ratio=None, params=4000).shares(4000)
    assert recipe(ratio=None, macs="0.25").as_json() == recipe(ratio=None, macs=0.25).as_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cubic"}, "unknown schedule 'cubic'\n  known: agp, geometric, linear"),
        ({"steps": 0}, "steps is 0"),
        ({"ratio": None}, "0 budgets were given: none"),
        ({"macs": 0.5}, "2 budgets were given: ratio, macs"),
        ({"ratio": 1.0}, "ratio is 1"),
        ({"ratio": 0.0}, "ratio=0 asks for nothing"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": None, "macs": 1.0}, "macs=1 asks for nothing\n"),
        ({"ratio": None, "memory": "2 apples"}, "memory is '2 apples'"),
        ({"ratio": None, "params": -3.0}, "params is -3"),
        ({"min_keep": 1.5}, "min_keep is 1.5"),
    ],
)
def test_senseless_recipes_are_refused(options, message):
    with pytest.raises(RequestError) as caught:
        recipe(**options)
    assert message in f"{caught.value}\n"


WORDS = """
import secateur as sc
from secateur.iterative import Recipe
from secateur.train import FitConfig

def made(n):
    return lambda view: view.weights[0].abs().pow(n).sum(1) * (view.name in {"a", "b", "c"})

def told(criterion):
    return Recipe(FitConfig(epochs=1), ratio=0.5, criterion=criterion).as_json()["criterion"]

found = [told(one) for one in (sc.criterion("l1"), sc.criterion("ln", n=3.0), made(2), made(3))]
print("; ".join(found))
"""


def test_criteria_are_told_apart_and_alike_when_they_are_made_again():
    one, other = {}, {}
    exec(WORDS, one)
    exec(WORDS, other)
    assert one["found"] == other["found"]
    plain, with_options, square, cube = one["found"]
    assert (plain, with_options) == ("l1", "ln (n=3.0)")
    assert square != cube


@pytest.mark.slow
def test_criteria_are_told_alike_in_every_process():
    here = {"__name__": "__main__"}
    exec(WORDS, here)
    there = subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "; ".join(here["found"])


def test_where_to_save_is_not_for_the_fine_tuning_to_say(tmp_path):
    with pytest.raises(RequestError, match="each step has a folder of its own"):
        Recipe(FitConfig(epochs=1, save=tmp_path), ratio=0.5)

"""`secateur prune` with criteria that look at data, and their options."""

import pytest

MODEL = ("zoo:vgg11", "--arg", "width=0.0625", "--arg", "in_channels=1", "--arg", "image_size=8")


@pytest.mark.parametrize("criterion", ["jacobian", "apoz"])
def test_data_is_for_criteria(criterion, run, tmp_path):
    words = (
        "--ratio",
        0.4,
        "--criterion",
        criterion,
        "--normalise",
        "max",
        "--data",
        "digits",
        "--images",
        70,
    )
    outcome = run("prune", *MODEL, *words, "--save", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["verdict"] == "exact"
    assert 0.3 < outcome.json["achieved_ratio"] < 0.5


def test_options_of_a_criterion_are_words(run, tmp_path):
    keep = []
    for number, options in enumerate(([], ["--option", "n=0.5"])):
        words = ("--ratio", 0.4, "--criterion", "ln", "--aggregate", "max", *options, "--json")
        outcome = run("prune", *MODEL, *words, "--save", tmp_path / str(number))
        assert outcome.code == 0, outcome.err
        keep.append((tmp_path / str(number) / "plan.json").read_text().partition('"groups"')[2])
    assert keep[0] != keep[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--criterion", "taylor"), "criterion taylor needs data for gradients, there is none"),
        (("--criterion", "ln", "--option", "n"), "--option is 'n'"),
        (("--criterion", "l1", "--option", "n=2"), "criterion l1 takes no option 'n'"),
        (("--aggregate", "median"), "unknown aggregate 'median'"),
        (("--normalise", "maxx"), "did you mean 'max'?"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, refuse, tmp_path):
    assert message in refuse(2, "prune", *MODEL, "--ratio", 0.4, *words, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_data_says_what_an_own_model_takes(run, tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))\n"
    )
    words = ("--ratio", 0.5, "--data", "digits", "--save", tmp_path / "cut", "--json")
    outcome = run("prune", f"{tmp_path / 'own.py'}:make", *words)
    assert outcome.code == 0, outcome.err
    assert outcome.json["after"]["params"] < outcome.json["before"]["params"]

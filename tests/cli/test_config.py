"""`--config`, `run.yaml` and `secateur rerun`: what was asked for can be read, and asked for again."""

import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file

DIGITS = {"width": 0.0625, "in_channels": 1, "image_size": 8}


def write(path, options):
    path.write_text(options if isinstance(options, str) else yaml.safe_dump(options))
    return path


def weights(folder):
    return load_file(folder / "weights.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def pruned(run, tmp_path_factory):
    """A model pruned by a file of options; read only."""
    folder = tmp_path_factory.mktemp("config")
    config = {"model": "zoo:vgg11", "arg": DIGITS, "ratio": 0.5, "round_to": 2, "check": False}
    file = write(folder / "options.yaml", {**config, "protect": ["feature.0"], "seed": 3})
    outcome = run("prune", "--config", file, "--save", folder / "cut", "--json")
    assert outcome.code == 0, outcome.err
    return folder / "cut", outcome.json, file


def test_a_file_fills_options_and_what_is_typed_wins(pruned, run, tmp_path):
    _, found, file = pruned
    assert found["verdict"] is None
    assert found["requested"] == "ratio=0.5"
    assert all(after % 2 == 0 for _, after in found["groups"].values())
    assert "feature.0" not in found["groups"]
    words = ("prune", "--config", file, "--ratio", 0.25, "--check", "--save", tmp_path / "typed", "--json")
    typed = run(*words).json
    assert (typed["requested"], typed["verdict"]) == ("ratio=0.25", "exact")


def test_a_run_leaves_its_request_and_what_it_ran_on(pruned):
    folder, _, file = pruned
    held = yaml.safe_load((folder / "run.yaml").read_text())
    assert held["command"] == "prune"
    assert held["typed"] == f"secateur prune --config {file} --save {folder} --json"
    request = held["request"]
    assert sorted(request["arg"]) == ["image_size=8", "in_channels=1", "width=0.0625"]
    assert (request["ratio"], request["round-to"], request["seed"]) == (0.5, 2, 3)
    assert "criterion" not in request  # nothing was named: it hangs on the data
    assert request["check"] is False
    assert held["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(held["versions"]) == {"secateur", "torch", "python"}


def test_the_git_state_is_that_of_the_working_directory(run, tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, cwd=tmp_path)

    write(tmp_path / "a.txt", "one")
    monkeypatch.chdir(tmp_path)
    words = ("mask", "prune", "zoo:vgg11", "--arg", "width=0.0625", "--amount", 0.1, "--seed", 1)
    assert run(*words, "--save", "none").code == 0
    assert yaml.safe_load((tmp_path / "none" / "run.yaml").read_text())["git"] is None
    git("init", "-q")
    git("add", "a.txt")
    git("commit", "-q", "-m", "one")
    write(tmp_path / "a.txt", "two")
    assert run(*words, "--save", "some").code == 0
    found = yaml.safe_load((tmp_path / "some" / "run.yaml").read_text())["git"]
    assert len(found["commit"]) == 40
    assert found["changed"] is True


def test_rerun_gives_the_same_weights_and_record(pruned, run, refuse, tmp_path):
    folder, found, _ = pruned
    outcome = run("rerun", folder, "--save", tmp_path / "again", "--json")
    assert outcome.code == 0, outcome.err
    assert {**outcome.json, "saved": ""} == {**found, "saved": ""}
    assert same(weights(folder), weights(tmp_path / "again"))
    one, two = (yaml.safe_load((path / "run.yaml").read_text()) for path in (folder, tmp_path / "again"))
    assert {**one["request"], "save": ""} == {**two["request"], "save": ""}
    assert "the folder that is read" in refuse(2, "rerun", folder, "--save", folder)


def test_a_command_with_a_config_of_its_own_is_run_again_too(run, tmp_path):
    steps = write(tmp_path / "masks.json", '[{"method": "random", "amount": 0.5}]')
    words = ("mask", "prune", "zoo:vgg11", "--arg", "width=0.0625", "--config", steps, "--seed", 5)
    assert run(*words, "--save", tmp_path / "one").code == 0
    outcome = run("rerun", tmp_path / "one", "--save", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_rerun_says_what_is_otherwise_than_it_was(pruned, run, tmp_path):
    folder, _, _ = pruned
    held = yaml.safe_load((folder / "run.yaml").read_text())
    held["versions"]["torch"] = "1.0"
    (tmp_path / "old").mkdir()
    write(tmp_path / "old" / "run.yaml", held)
    outcome = run("rerun", tmp_path / "old", "--save", tmp_path / "new")
    assert "was made with torch 1.0, this is" in outcome.err
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("ratoi: 0.5", 2, "did you mean 'ratio'?"),
        ("ratio: 0.5\nratio: 0.6", 2, "'ratio' is given twice"),
        ("- ratio", 2, "holds list, not options"),
        ("ratio: [", 2, "is no YAML"),
        ("ratio: yes", 2, "words such as 'no' in quotes"),
        ("check: 1", 2, "write true or false"),
        ("macs: {a: 1}", 2, "write one value"),
        ("command: train\nrequest: {ratio: 0.5}", 2, "is of secateur train, not of secateur prune"),
        (None, 1, "no such file"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(refuse, tmp_path, content, code, message):
    file = tmp_path / "run.yaml"
    if content is not None:
        write(file, content)
    assert message in refuse(code, "prune", "zoo:vgg11", "--config", file, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["ratio: many", "seed: -1"])
def test_a_value_of_a_file_is_judged_as_if_it_were_typed(run, tmp_path, content):
    file = write(tmp_path / "run.yaml", content)
    assert run("prune", "zoo:vgg11", "--config", file, "--save", tmp_path / "out").code == 2


def test_a_folder_without_a_record_is_named(refuse, tmp_path):
    assert "run.yaml: no such file" in refuse(1, "rerun", tmp_path, "--save", tmp_path / "out")
    write(tmp_path / "run.yaml", "ratio: 0.5")
    assert "names no command" in refuse(1, "rerun", tmp_path, "--save", tmp_path / "out")


def test_a_failed_run_leaves_the_record_of_the_one_before(pruned, run, tmp_path):
    folder, _, file = pruned
    before = (folder / "run.yaml").read_bytes()
    assert run("prune", "--config", file, "--ratio", 2, "--save", folder).code == 2
    assert (folder / "run.yaml").read_bytes() == before


def test_verbose_tells_the_request_and_the_time_and_shows_the_traceback(run, tmp_path):
    words = ("mask", "prune", "zoo:vgg11", "--arg", "width=0.0625", "--save", tmp_path / "m", "--verbose")
    told = run(*words, "--amount", 0.1, "--json")
    assert told.json["saved"] == str(tmp_path / "m")
    assert "amount: 0.1" in told.err
    assert "s of CPU" in told.err
    failed = run(*words, "--method", "l9", "--amount", 0.1)
    assert failed.code == 2
    assert "Traceback" in failed.err
    assert failed.err.rstrip().splitlines()[-1].startswith("  ")

"""`secateur rerun`: run again what a folder says of itself."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.app import make_app
from secateur.cli.runs import RUN, read_run, versions, words_of
from secateur.cli.terminal import Answer, say, talk, typed
from secateur.errors import CheckpointError, RequestError


def rerun(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that a run was saved to.")],
    save: Annotated[Path, typer.Option(help="Folder to write to; another one.")],
) -> Answer:
    """Run again what made a folder, by the options in its run.yaml, into another folder.

    Relative paths start from the working directory, as they did the first time.

    Example: secateur rerun runs/pruned --save runs/again
    """
    file = folder / RUN
    held = read_run(file)
    if not isinstance(held.get("command"), str):
        raise CheckpointError(f"{file} names no command", do=f"use it with --config {file}")
    if folder.resolve() == save.resolve():
        what = f"--save is {save}, the folder that is read"
        raise RequestError(what, ["its files would be lost"], "name another folder")
    now = versions()
    for name, then in dict(held.get("versions") or {}).items():
        if now.get(name) != then:
            say(f"note: {folder} was made with {name} {then}, this is {now.get(name)}")
    command = typer.main.get_command(make_app(held["command"].split()))
    as_json, verbose = talk.get()
    more = [*(["--json"] if as_json else []), *(["--verbose"] if verbose else [])]
    words = words_of(command, held, save, *more)
    typed.set(tuple(words))
    make_app(words)(args=words, prog_name="secateur")
    raise typer.Exit  # not reached: the application has ended the program

"""The command line: `python -m helpers run`, `prefetch`, `train`."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from helpers import batch
from helpers.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def commands() -> None:
    """Causal language modelling in six notebooks, as one batch job."""


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="A file of notebooks/profiles, without its ending.")] = "tiny",
    run_dir: Annotated[str | None, typer.Option(help="Where the run is kept; by default runs/PROFILE.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-p", help="STEP.NAME=VALUE, or NAME=VALUE for every step that has it.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="Do this step and the later ones again.")] = None,
    force: Annotated[bool, typer.Option(help="Do every step again, also those that are done.")] = False,
) -> None:
    """Run the six notebooks; a step that is done already, with the same parameters, inputs and code, is left out."""
    batch.run(profile, run_dir, setting or [], start, force, Console(highlight=False, soft_wrap=True))


@app.command()
def prefetch(
    profile: Annotated[str, typer.Option(help="A file of notebooks/profiles, without its ending.")] = "tiny",
    setting: Annotated[
        list[str] | None, typer.Option("-p", help="STEP.NAME=VALUE, or NAME=VALUE for every step that has it.")
    ] = None,
) -> None:
    """Fetch the data set and the model that a run needs, once; after it, the run works without a network."""
    batch.prefetch(profile, setting or [], Console(highlight=False, soft_wrap=True))


@app.command()
def train(
    profile: Annotated[str, typer.Option(help="A file of notebooks/profiles, without its ending.")] = "tiny",
    run_dir: Annotated[str | None, typer.Option(help="Where the run is kept; by default runs/PROFILE.")] = None,
    setting: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE for the step train.")] = None,
    nproc: Annotated[int, typer.Option(min=1, help="How many processes, one for each device.")] = 1,
) -> None:
    """Do the step train on several devices; also as `torchrun … -m helpers train` and `accelerate launch … -m helpers train`."""
    from helpers import launch

    launch.train(profile, run_dir, setting or [], nproc)


def main() -> None:
    """Run the command line; a user's mistake ends it with one sentence and status 1."""
    try:
        app()
    except UserError as error:
        print(("helpers: " if "RANK" in os.environ else "") + str(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted; what was done stays, and the same command goes on from there.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""The command line: `python -m helpers run`, `sweep`, `compare`, `report`, `prefetch`, `train`."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from helpers.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Profile = Annotated[
    str | None,
    typer.Option(
        help="A file of notebooks/profiles, without its ending, or the path of one; by default tiny."
    ),
]
RunDir = Annotated[
    str | None,
    typer.Option(
        help="Where the run is kept, with its profile and settings; by default runs/PROFILE."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("-p", help="STEP.NAME=VALUE, or NAME=VALUE for every step that has it."),
]
Grace = Annotated[
    float,
    typer.Option(
        min=0, help="Seconds that a notebook has to save its work when it is interrupted."
    ),
]
TimeLimit = Annotated[
    float, typer.Option(min=0, help="Minutes that each notebook may take; 0: as long as it takes.")
]
EDITED = (
    "notebooks/{} is not as it was committed: its code runs as it is now, with the parameters of the profile "
    "in place of those in its cell."
)


@app.callback()
def commands() -> None:
    """Causal language modelling in six notebooks, as one batch job or as many.

    Relative paths start at the project's folder, wherever a command is called from.
    """


def _console() -> Console:
    width = (
        None if sys.stdout.isatty() else 200
    )  # a table in a file or a pipe keeps its lines whole
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)


def _going_on(
    run_dir: str | None, profile: str | None, setting: list[str]
) -> tuple[str, str, dict[str, object], list[str]]:
    """The run folder that is meant, its profile and settings, and a sentence about those that it remembers."""
    from helpers.runs.profiles import DEFAULT, folder_for, going_on, spelled_out

    folder = folder_for(run_dir, profile)
    name, settings = going_on(folder, profile, setting)
    kept = settings.keys() - spelled_out(setting).keys()
    listed = ", ".join(
        [f"{folder} goes on with profile {name}", *(f"{key}={settings[key]}" for key in settings)]
    )
    return (
        folder,
        name,
        settings,
        [listed + "."] * (bool(kept) or (profile is None and name != DEFAULT)),
    )


@app.command()
def run(
    profile: Profile = None,
    run_dir: RunDir = None,
    setting: Settings = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Do this step and the later ones again.")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Do every step again, also those that are done.")
    ] = False,
    time_limit: TimeLimit = 0,
    grace: Grace = 60,
) -> None:
    """Run the six notebooks; a step that is done already, with the same parameters, inputs and code, is left out."""
    from helpers.runs import run as batch
    from helpers.runs.folder import Run
    from helpers.runs.notebook import edited
    from helpers.runs.profiles import plan
    from helpers.runs.terminal import View, summary

    folder, profile, settings, said = _going_on(run_dir, profile, setting or [])
    parameters, command = plan(profile, settings), batch.prefetch_command(profile, settings)
    how = (command, start, force, time_limit * 60, 0, "", profile, settings, grace)
    said += [EDITED.format(name) for name in edited()]
    with View(_console()) as view:

        def tell(event: str, step: str, more: dict) -> None:
            while said:  # before anything is done, and after whatever is refused
                view.console.print(said.pop(0))
            show(event, step, more)

        show = view.of()
        record = batch.do(batch.Specification(folder, parameters, *how), tell)
    if record["status"] == "interrupted":
        raise KeyboardInterrupt
    if record["status"] != "ok":
        raise UserError(record["message"])
    summary(Run(folder), view.console)


@app.command()
def sweep(
    file: Annotated[
        Path,
        typer.Argument(help="What is varied; notebooks/profiles/sweep-tiny.yaml is an example."),
    ],
    sweep_dir: Annotated[
        str | None, typer.Option(help="Where the runs are kept; by default runs/FILE.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs at once.")] = 1,
    dry_run: Annotated[bool, typer.Option(help="Show what would run, and run nothing.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="The address of a Dask scheduler, such as tcp://host:8786.")
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="Do only the run with this number, for array jobs.")
    ] = None,
    time_limit: TimeLimit = 0,
    grace: Grace = 60,
) -> None:
    """Run many variants; run again, it goes on where it stopped. A run that fails does not stop the others."""
    from helpers.runs import sweep as sweeps

    if sweeps.main(
        file, sweep_dir, jobs, dry_run, scheduler, index, time_limit * 60, _console(), grace
    ):
        sys.exit(1)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table there too.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the table with its figures there too.")
    ] = None,
) -> None:
    """Compare runs: what differs, and their perplexities, best first."""
    from helpers.runs import comparison

    comparison.main(runs, csv, html, _console())


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The folder of a complete run.")]) -> None:
    """Write report.html of a run anew."""
    from helpers.runs.folder import Run
    from helpers.runs.report import write_report
    from helpers.runs.run import read_record

    read_record(run_dir, complete=True)
    print(os.path.relpath(write_report(Run(run_dir))))


@app.command()
def prefetch(profile: Profile = "tiny", setting: Settings = None) -> None:
    """Fetch the data set and the model that a run needs, once; after it, the run works without a network."""
    from helpers.runs import run as batch

    print(batch.prefetch(profile, setting or []))


@app.command()
def train(
    profile: Profile = None,
    run_dir: RunDir = None,
    setting: Settings = None,
    nproc: Annotated[int, typer.Option(min=1, help="How many processes, one for each device.")] = 1,
) -> None:
    """Do the step train on several devices; also as `torchrun … -m helpers train` and `accelerate launch … -m helpers train`."""
    from helpers.runs import distributed as launch

    folder, profile, settings, said = _going_on(run_dir, profile, setting or [])
    if said and os.environ.get("RANK", "0") == "0":
        print(*said, flush=True)
    launch.train(folder, profile, settings, nproc)


def main() -> None:
    """Run the command line; a user's mistake ends it with one sentence and status 1, Ctrl-C and signals with 128 and their number."""
    from helpers.runs.process import ENDED_BY, end_like_ctrl_c

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a ✓ where the encoding has none
    end_like_ctrl_c()
    try:
        app(standalone_mode=True)
    except UserError as error:
        from helpers.hub.secrets import redacted

        print(("helpers: " if "RANK" in os.environ else "") + redacted(str(error)), file=sys.stderr)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == 130:
            print(
                "Interrupted; what was done stays, and the same command goes on from there.",
                file=sys.stderr,
            )
            sys.exit(128 + (ENDED_BY or [signal.SIGINT])[0])
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print("The disk is full: make room, and the same command goes on.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

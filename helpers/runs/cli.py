"""The command line, `python -m helpers`: runs, what is made of them, the workshop's tools."""

import codecs
import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from helpers.errors import UserError

ABOUT = """Causal language modelling in six notebooks, as one batch job or as many.

Relative paths start at the project's folder, wherever a command is called from."""
app = typer.Typer(
    help=ABOUT, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)

Profile = Annotated[
    str | None,
    typer.Option(help="The name of a file in notebooks/profiles, or the path of one; else tiny."),
]
RunDir = Annotated[
    str | None,
    typer.Option(help="The run's folder, which keeps its profile and settings; else runs/PROFILE."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("-p", help="STEP.NAME=VALUE, or NAME=VALUE for every step that has it."),
]
Grace = Annotated[
    float, typer.Option(min=0, help="Seconds for an interrupted notebook to save its work.")
]
TimeLimit = Annotated[float, typer.Option(min=0, help="Minutes for each notebook; 0: no limit.")]
PLAIN = {"✓": "ok", "✗": "failed", "→": "->", "≈": "~", "…": "...", "–": "-", "’": "'"}
EDITED = (
    "notebooks/{} is not as it was committed: its code runs as it is now, with the parameters of "
    "the profile in place of those in its cell."
)


def make_console() -> Console:
    """The console of all commands; in a file or a pipe, tables keep their lines whole."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)


def _resumed(
    run_dir: str | None, profile: str | None, given: list[str] | None
) -> tuple[str, str, dict[str, object], list[str]]:
    """A run's folder, profile and settings, and a notice if some are remembered by the folder."""
    from helpers.runs.profiles import DEFAULT, choose_folder, expand_settings, resume

    folder, chosen = choose_folder(run_dir, profile), expand_settings(given or [])
    name, settings = resume(folder, profile, given or [])
    if settings.keys() == chosen.keys() and (profile is not None or name == DEFAULT):
        return folder, name, settings, []
    parts = [f"{folder} resumes with profile {name}", *(f"{k}={v}" for k, v in settings.items())]
    return folder, name, settings, [", ".join(parts) + "."]


@app.command()
def run(
    profile: Profile = None,
    run_dir: RunDir = None,
    setting: Settings = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Do this step and the later ones again.")
    ] = None,
    until: Annotated[str, typer.Option(help="End with this step.")] = "infer",
    force: Annotated[
        bool, typer.Option(help="Do all steps again, even those done already.")
    ] = False,
    time_limit: TimeLimit = 0,
    grace: Grace = 60,
) -> None:
    """Run the six notebooks; skip steps done with the same parameters, inputs and code."""
    from helpers.runs.fetching import prefetch_command
    from helpers.runs.folder import Run
    from helpers.runs.notebook import edited
    from helpers.runs.profiles import plan
    from helpers.runs.run import RunSpec, execute_run
    from helpers.runs.terminal import View, print_summary

    folder, profile, settings, notices = _resumed(run_dir, profile, setting)
    parameters, command = plan(profile, settings), prefetch_command(profile, settings)
    limits = {"time_limit": time_limit * 60, "grace": grace}
    spec = RunSpec(folder, parameters, command, profile, settings, start, until, force, **limits)
    notices += [EDITED.format(name) for name in edited()]
    with View(make_console()) as view:
        show = view.listener()

        def listener(event: str, step: str, details: dict) -> None:
            while notices:  # only once the run has been accepted
                view.console.print(notices.pop(0))
            show(event, step, details)

        record = execute_run(spec, listener)
    if record["status"] == "interrupted":
        raise KeyboardInterrupt
    if record["status"] == "partial":
        command = f"python -m helpers run --run-dir {shlex.quote(Run(folder).shown)}"
        print(f"Done up to {until}; {record['message']}: `{command}` goes on.")
        return
    if record["status"] != "ok":
        raise UserError(record["message"])
    print_summary(Run(folder), view.console)


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
    """Run many variants, or resume them; a run that fails does not stop the others."""
    from helpers.runs.sweep import execute_sweep

    limits = {"time_limit": time_limit * 60, "grace": grace}
    options = {"jobs": jobs, "dry_run": dry_run, "scheduler": scheduler, "index": index, **limits}
    if execute_sweep(file, sweep_dir, make_console(), **options):
        sys.exit(1)


@app.command()
def join(
    folder: Annotated[str, typer.Argument(help="Where the runs of the shards lie.")],
    run_dir: Annotated[str, typer.Option(help="The folder of the run that is made of them.")],
) -> None:
    """Make one run of shards of a data set, which goes on with its training."""
    from helpers.runs.shards import join_shards

    join_shards(folder, run_dir)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table there too.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the table with its figures there too.")
    ] = None,
) -> None:
    """Compare runs: what differs, and their perplexities, best first."""
    from helpers.runs.comparison import show_comparison

    show_comparison(runs, csv, html, make_console())


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The folder of a complete run.")]) -> None:
    """Write report.html of a run again."""
    from helpers.engine.files import relative
    from helpers.runs.folder import Run
    from helpers.runs.record import read_record
    from helpers.runs.report import write_report

    read_record(run_dir, complete=True)
    print(relative(write_report(Run(run_dir))))


@app.command()
def prefetch(profile: Profile = "tiny", setting: Settings = None) -> None:
    """Fetch the data set and the models of a run, which then needs no network."""
    from helpers.runs.fetching import prefetch as fetch_all

    print(fetch_all(profile, setting or []))


@app.command()
def train(
    profile: Profile = None,
    run_dir: RunDir = None,
    setting: Settings = None,
    nproc: Annotated[int, typer.Option(min=1, help="How many processes, one for each device.")] = 1,
) -> None:
    """Train on several devices; also by `torchrun …` or `accelerate launch … -m helpers train`."""
    from helpers.runs.distributed import train as train_together

    folder, profile, settings, notices = _resumed(run_dir, profile, setting)
    if notices and os.environ.get("RANK", "0") == "0":
        print(*notices, flush=True)
    train_together(folder, profile, settings, nproc)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at this machine, and say what is wrong with it; status 1 if something is."""
    from helpers.workshop.doctor import main as look

    sys.exit(look(as_json))


@app.command()
def catch_up(
    until: Annotated[str, typer.Option(help="The step that is to begin next; it is not done.")],
    run_dir: Annotated[str, typer.Option(help="The run's folder.")] = "runs/tiny",
    source: Annotated[
        str, typer.Option(help="A complete run to take them from; by default what was shipped.")
    ] = "artifacts",
) -> None:
    """Put shipped artifacts of all steps before --until into a run folder."""
    from helpers.workshop.artifacts import catch_up as put

    put(until, run_dir, source)


@app.command()
def classroom(
    folder: Annotated[Path, typer.Argument(help="Where the files result-NAME.json lie.")],
) -> None:
    """Draw the results of a class, as a page for the projector: FOLDER/classroom.html."""
    from helpers.workshop.classroom import write_page

    print(*write_page(folder), sep="\n")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What is written in place of characters that the output's encoding has not."""
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in characters), error.end


codecs.register_error("plain", _plain)


def main() -> None:
    """Run the command line.

    A user's mistake ends it with one sentence and status 1, Ctrl-C and signals with 128 plus
    their number.
    """
    from helpers.runs.signals import RECEIVED, treat_signals_as_ctrl_c

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the calling process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="plain")
    treat_signals_as_ctrl_c()
    try:
        app(standalone_mode=True)
    except UserError as error:
        from helpers.hub.secrets import redacted

        _fail(("helpers: " if "RANK" in os.environ else "") + redacted(str(error)))
    except SystemExit as ended:
        if ended.code != 130:
            raise
        status = 128 + (RECEIVED or [signal.SIGINT])[0]
        _fail("Interrupted; finished work is kept: run the same command again to resume.", status)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail("The disk is full: free some space, then run the same command again to resume.")


def _fail(message: str, status: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)

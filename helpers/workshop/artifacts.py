"""`catch_up`: shipped steps, put into a run that lacks them."""

import shutil

from helpers.errors import RunError
from helpers.runs.folder import NEEDS, Run
from helpers.runs.locking import folder_lock
from helpers.runs.parameters import STEPS, folder_of

SHIPPED = "artifacts"  # a complete run of the default profile, in the project's folder


def catch_up(until: str, run_dir: str = "runs/tiny", source: str = SHIPPED) -> None:
    """Put the artifacts of all steps before `until` into a run, where they count as done.

    Steps that are missing, stale, edited or damaged are replaced. Nothing is done where `until` can
    begin already, and a step with other parameters or sources is never replaced.

    Args:
        until: the step that is to begin next, such as `chunk`; it is not done itself.
        run_dir: the run's folder.
        source: the folder of a complete run.

    Raises:
        RunError: the artifacts are not there or damaged, or the run has steps of its own that they
            do not fit; another run_dir is what helps.
    """
    folder_of(until)
    run, shipped = Run(run_dir), Run(source)
    if all(_problem(run, need) is None for need in NEEDS[until]):
        print(f"{until} can begin: what it needs is in {run.shown}.")
        return
    earlier = STEPS[: STEPS.index(until)]
    for step in earlier:
        if why := _problem(shipped, step):
            raise RunError(
                f"Nothing can be put into {run.shown}: {why}; "
                f"do the steps before {until!r} yourself with `{_command(run, earlier[-1])}`."
            )
    with folder_lock(run.folder):
        _refuse_own(run, shipped, earlier)
        for step in earlier:
            _put(step, run, shipped)
    print(f"{', '.join(earlier)}: put into {run.shown}; {until} can begin.")
    others = [s for s in earlier if not run.is_done(s, run.record(s)["parameters"])]
    if others:
        print(f"A later `python -m helpers run` does {others[0]} again, since its code is another.")


def _command(run: Run, last: str) -> str:
    return f"python -m helpers run --run-dir {run.shown} --until {last}"


def _problem(run: Run, step: str) -> str | None:
    """Why a step cannot be used; a damaged record is a reason like any other."""
    try:
        return run.problem(step)
    except RunError as error:
        return str(error).rstrip(".")


def _refuse_own(run: Run, shipped: Run, steps: tuple[str, ...]) -> None:
    """RunError where a step was made with other parameters or from other sources."""
    for step in steps:
        try:
            own = run.record(step)
        except RunError:  # damaged
            continue
        other = shipped.record(step)
        if own and any(own[key] != other[key] for key in ("parameters", "sources")):
            raise RunError(
                f"run_dir is {run.shown!r}: it has a step {step!r} of its own, which the shipped "
                "artifacts do not fit; name another, such as 'runs/class'."
            )


def _put(step: str, run: Run, shipped: Run) -> None:
    """Replace a step by the shipped one, unless it is the same."""
    if _problem(run, step) is None and run.record(step) == shipped.record(step):
        return
    lock = run.lock(step)
    try:
        partial = run.make_partial(step)
        shutil.copytree(shipped.path(step), partial, dirs_exist_ok=True)
        run.publish(step, partial)
    finally:
        lock.release()

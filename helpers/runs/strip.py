"""Around a notebook: where its run stands, which notebook comes next, and which run is chosen."""

import html
from pathlib import Path
from urllib.parse import quote

from helpers.engine.files import relative
from helpers.engine.progress import is_watched
from helpers.errors import ParameterError
from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run, with_ancestors
from helpers.runs.parameters import STEPS, folder_of

DEFAULT = "runs/tiny"  # `run_dir` in the notebooks
CHOSEN = PROJECT / "runs" / ".chosen"  # holds what `use_run` was given
DONE, CHANGED, STALE, MISSING = "✓", "changed", "stale", "–"


def use_run(run_dir: str) -> None:
    """Let every notebook that leaves `run_dir` at its default work in this run folder.

    It counts where a person runs the notebook, and neither under papermill nor under the runner:
    there the parameters decide. `use_run("runs/tiny")` ends it.
    """
    if not isinstance(run_dir, str) or not run_dir.strip():
        raise ParameterError("run_dir", run_dir, "it must be the name of a folder")
    run = Run(run_dir)
    if run.folder == Run(DEFAULT).folder:
        CHOSEN.unlink(missing_ok=True)
    else:
        CHOSEN.parent.mkdir(exist_ok=True)
        CHOSEN.write_text(run.shown, encoding="utf-8")
    print(f"The notebooks now work in {run.shown}: run the one that is open from the top.")


def chosen_run(run_dir: str) -> str:
    """The run folder of a notebook with this `run_dir`: another one if `use_run` has named it."""
    if run_dir != DEFAULT or not is_watched() or not CHOSEN.exists():
        return run_dir
    return CHOSEN.read_text(encoding="utf-8").strip() or run_dir


def standing(run: Run, step: str = "", parameters: dict | None = None) -> dict[str, str]:
    """How each step of a run stands: `✓`, `changed`, `stale` or `–` for what is not done.

    A step is stale if it, or one that it is made from, was made from something that has changed.

    Args:
        step: The one whose notebook is open, if any.
        parameters: Its parameters there; the step is changed if it was done with others.
    """
    problems, records = run.problems(), {name: run.record(name) for name in STEPS}
    found = {}
    for name, record in records.items():
        found[name] = MISSING if record is None else STALE if problems[name] else DONE
    if step and records[step] and records[step]["parameters"] != parameters:
        found[step] = CHANGED
        for name in STEPS:
            if step in with_ancestors(name)[:-1] and records[name]:
                found[name] = STALE
    return found


def show_strip(run: Run, step: str, parameters: dict) -> None:
    """Show, above a notebook that a person runs, how the steps of its run stand."""
    if not is_watched():
        return
    from IPython.display import HTML, display

    steps = []
    for name, state in standing(run, step, parameters).items():
        label = f"{folder_of(name)[:2]} {name}"
        label = f"<b>{label}</b>" if name == step else _link(_notebook(name), label)
        steps.append(f'<span style="white-space:nowrap">{label} {state}</span>')
    chosen = "" if run.folder == Run(DEFAULT).folder else f" in <b>{html.escape(run.shown)}</b>"
    display(
        HTML(
            '<div role="navigation" aria-label="the steps of this run" style="display:flex;'
            'flex-wrap:wrap;gap:0 1.2em;border-left:4px solid #0072B2;padding:2px 10px">'
            f"<span>This run{chosen}:</span>{''.join(steps)}</div>"
        )
    )


def show_next(run: Run, step: str, report: Path | None) -> None:
    """Show, where a person has just finished a step, what comes next: a notebook, or the report."""
    if not is_watched():
        return
    from IPython.display import HTML, display

    words = f"{folder_of(step)} is done."
    following = next((s for s, state in standing(run).items() if state != DONE), None)
    if following:
        words += f" Next: {_link(_notebook(following), folder_of(following))}."
    if report:
        place = quote(Path(relative(report, PROJECT / "notebooks")).as_posix())
        words += f" {_link(place, 'The report')} shows the whole run on one page."
    display(HTML(f"<div>{words}</div>"))


def _notebook(step: str) -> str:
    return f"{folder_of(step)}.ipynb"


def _link(place: str, words: str) -> str:
    return f'<a href="{html.escape(place)}">{html.escape(words)}</a>'

"""The notebooks as files: their paths, their default parameters, and their execution."""

import ast
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import errors
from helpers.engine.files import move, relative
from helpers.errors import RunError, UserError
from helpers.hub.secrets import redacted
from helpers.hub.sources import PROJECT
from helpers.runs.parameters import RULES, STEPS, folder_of

if TYPE_CHECKING:
    from jupyter_client import AsyncKernelManager

FOLDER = PROJECT / "notebooks"
# Of the processes of notebooks: no bars, and texts in UTF-8 whatever the system's code page is.
QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUTF8": "1",
    "PYTHONIOENCODING": "utf-8",
}


def path_of(step: str) -> Path:
    """The notebook of a step."""
    need_notebooks()
    return FOLDER / f"{folder_of(step)}.ipynb"


def need_notebooks() -> None:
    """RunError where this package was installed without its project."""
    if not FOLDER.is_dir():
        raise RunError(
            "The notebooks are not beside the package helpers: a run needs the project's own "
            "folder, installed from there with `pip install -e .`; the package alone is a library."
        )


def edited() -> list[str]:
    """The notebooks whose parameters are not the table's, or whose code is not as committed."""
    return [path_of(step).name for step in STEPS if _is_edited(step)]


def _is_edited(step: str) -> bool:
    path = path_of(step)
    try:
        values = defaults(path)
    except (UserError, SyntaxError, ValueError):
        return True
    if any(values.get(name) != rule.default for name, rule in RULES[step].items()):
        return True
    command = ["git", "-C", str(FOLDER), "show", f"HEAD:./{path.name}"]
    try:
        shown = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):  # there is no git, or it has no such file
        return False
    return _code(shown.stdout) != _code(path.read_text(encoding="utf-8"))


def _code(notebook: str) -> list[str]:
    cells = json.loads(notebook)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def defaults(path: Path) -> dict[str, object]:
    """The names and values in a notebook's cell tagged `parameters`; read, not executed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            nodes = ast.parse("".join(cell["source"])).body
            assigned = [node for node in nodes if isinstance(node, ast.AnnAssign)]
            return {node.target.id: ast.literal_eval(node.value) for node in assigned}
    raise UserError(f"{path.name} has no cell tagged 'parameters'.")


class KernelDied(UserError):
    """The kernel of a notebook has ended unexpectedly."""


def execute(
    step: str,
    output: Path,
    parameters: dict[str, object],
    kernel: "AsyncKernelManager | None" = None,
) -> None:
    """Run a step's notebook with papermill.

    Args:
        step: whose notebook.
        output: where the executed notebook is written, without tokens.
        parameters: what papermill injects.
        kernel: one that has been started already; it is left running.

    Raises:
        UserError: the notebook has failed; the message is one sentence.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.iorw import papermill_io

    papermill_io.register(_Writer.SCHEME, _Writer)
    output = Path(relative(output))  # papermill records the path, and runs can be moved
    try:
        papermill.execute_notebook(
            _escaped(relative(path_of(step))),
            _Writer.SCHEME + _escaped(output),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=Path.cwd(),
            km=kernel,
            shutdown_kernel="immediate",  # all is on the disk; an orderly end takes up to 3 seconds
        )
    except papermill.PapermillExecutionError as error:
        if f"[Errno {errno.ENOSPC}]" in error.evalue:
            raise _disk_full(step) from None
        if issubclass(getattr(errors, error.ename, Exception), UserError):
            raise UserError(f"{step}: {error.evalue}") from None
        raise UserError(f"{step} failed: {error.ename}: {error.evalue} (see {output})") from None
    except DeadKernelError:
        raise KernelDied(
            f"{step}: its kernel was killed, most likely for lack of memory: "
            "use a smaller per_device_train_batch_size, block_size or model."
        ) from None
    if _Writer.disk_full:
        raise _disk_full(step)


def _disk_full(step: str) -> UserError:
    return UserError(
        f"{step}: the disk is full: free some space, then run the same command again to resume."
    )


def _escaped(path: str | Path) -> str:
    """A path in which papermill finds no placeholders."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Writer:
    """Papermill's output: without tokens, keeping the old file until the new one is complete.

    A full disk does not end a notebook, which may handle that better; it sets `disk_full`.
    """

    SCHEME, disk_full = "redacted:", False

    @classmethod
    def write(cls, notebook: str, path: str) -> None:
        path = Path(path.removeprefix(cls.SCHEME))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(redacted(notebook), encoding="utf-8")
            move(temporary, path)
            cls.disk_full = False
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            temporary.unlink(missing_ok=True)
            cls.disk_full = True

    @staticmethod
    def pretty_path(path: str) -> str:
        return path.removeprefix(_Writer.SCHEME)

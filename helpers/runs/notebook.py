"""The notebooks as files: their parameters, their execution, and the clean form in which they are committed.

`python -m helpers.runs.notebook` executes all six from their defaults, cleans them, checks them and writes them in place.
"""

import ast
import base64
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import RunError, UserError
from helpers.hub.secrets import redacted
from helpers.hub.sources import PROJECT
from helpers.runs.parameters import RULES, STEPS, folder_of

if TYPE_CHECKING:
    from jupyter_client import AsyncKernelManager
    from nbformat import NotebookNode

FOLDER = PROJECT / "notebooks"
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

MACHINE = re.compile(
    re.escape(str(PROJECT))
    + r"|(?<![\w.:/])/(home|root|tmp|usr|opt|var|mnt|Users)/\w|[A-Z]:\\|127\.0\.0\.1|object at 0x|\d+%\|"
)


def path_of(step: str) -> Path:
    """The notebook of a step."""
    need_notebooks()
    return FOLDER / f"{folder_of(step)}.ipynb"


def need_notebooks() -> None:
    """RunError where this package was installed by itself, without the project that it belongs to."""
    if not FOLDER.is_dir():
        raise RunError(
            "The notebooks are not beside the package helpers: a run needs the project's own folder, "
            "installed from there with `pip install -e .`; the package alone serves as a library."
        )


def edited() -> list[str]:
    """The notebooks whose parameters are not those of the table, or whose code is not that of the last commit, where git has one."""
    found = []
    for step in STEPS:
        path = path_of(step)
        code = _code(path.read_text(encoding="utf-8"))
        try:
            told = ["git", "-C", str(FOLDER), "show", f"HEAD:./{path.name}"]
            committed = subprocess.run(
                told, capture_output=True, text=True, encoding="utf-8", check=True
            ).stdout
            changed = _code(committed) != code
        except (OSError, subprocess.CalledProcessError):
            changed = False
        if changed or not _as_in_the_table(step):
            found.append(path.name)
    return found


def _code(notebook: str) -> list[str]:
    return [
        "".join(cell["source"])
        for cell in json.loads(notebook)["cells"]
        if cell["cell_type"] == "code"
    ]


def _as_in_the_table(step: str) -> bool:
    try:
        found = defaults(path_of(step))
    except (UserError, SyntaxError, ValueError):
        return False
    return {name: found.get(name) for name in RULES[step]} == {
        n: rule.default for n, rule in RULES[step].items()
    }


def defaults(path: Path) -> dict[str, object]:
    """The names and default values in a notebook's cell tagged `parameters`; read, not executed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            assigned = [
                node
                for node in ast.parse("".join(cell["source"])).body
                if isinstance(node, ast.AnnAssign)
            ]
            return {node.target.id: ast.literal_eval(node.value) for node in assigned}
    raise UserError(f"{path.name} has no cell tagged 'parameters'.")


class KernelDied(UserError):
    """The kernel of a notebook has ended by itself."""


def execute(
    step: str,
    output: Path,
    parameters: dict[str, object],
    kernel: "AsyncKernelManager | None" = None,
) -> None:
    """Run a step's notebook through papermill, the executed notebook written to `output`.

    What is written has no token in it, and is whole or not there. `kernel` is one that has been started for it, and is left running.
    Raises UserError with one sentence if the notebook fails, for whatever reason.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.iorw import papermill_io

    papermill_io.register(_Redacting.SCHEME, _Redacting)
    output = Path(
        os.path.relpath(output)
    )  # papermill writes both paths down, and the folder may be moved
    try:
        papermill.execute_notebook(
            _literally(os.path.relpath(path_of(step))),
            _Redacting.SCHEME + _literally(output),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=Path.cwd(),
            km=kernel,
            shutdown_kernel="immediate",  # what it has to keep is on the disk by now; to ask it takes up to 3 seconds
        )
    except papermill.PapermillExecutionError as error:
        if f"[Errno {errno.ENOSPC}]" in error.evalue:
            raise _full(step) from None
        mine = error.ename in {cls.__name__ for cls in _subclasses(UserError)}
        raise UserError(
            f"{step}: {error.evalue}"
            if mine
            else f"{step} failed: {error.ename}: {error.evalue} (see {output})"
        ) from None
    except DeadKernelError:
        raise KernelDied(
            f"{step}: its kernel was killed, most likely for want of memory: take a smaller per_device_train_batch_size, block_size or model."
        ) from None
    if _Redacting.full:
        raise _full(step)


def _full(step: str) -> UserError:
    return UserError(f"{step}: the disk is full: make room, and the same command goes on.")


def _literally(path: str | Path) -> str:
    """A path in which papermill replaces nothing."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Redacting:
    """How papermill writes: without tokens, and with the old file in its place until the new one is whole.

    A disk that is full does not end a notebook, which may know better what to do about it; `full` says so.
    """

    SCHEME, full = "redacted:", False

    @classmethod
    def write(cls, notebook: str, path: str) -> None:
        path = Path(path.removeprefix(cls.SCHEME))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(redacted(notebook), encoding="utf-8")
            os.replace(temporary, path)
            cls.full = False
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            temporary.unlink(missing_ok=True)
            cls.full = True

    @staticmethod
    def pretty_path(path: str) -> str:
        return path.removeprefix(_Redacting.SCHEME)


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))


def clean(notebook: "NotebookNode") -> "NotebookNode":
    """The notebook with its outputs, and without what execution or a machine has left in it."""
    import nbformat

    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.cells = [
        c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])
    ]
    count = 0
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            count += 1  # what a run from top to bottom gives; nbval compares no output of a cell without a count
            cell.execution_count = count
            cell.outputs = _joined([o for o in cell.outputs if _is_kept(o)])
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def _is_kept(output: "NotebookNode") -> bool:
    if output.output_type == "stream":
        return output.name == "stdout"
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def _joined(outputs: "list[NotebookNode]") -> "list[NotebookNode]":
    """Pieces of text that were printed one after the other as one output: how it was cut depends on the moment."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def problems(path: Path) -> list[str]:
    """What is wrong with a committed notebook, in one line each; an empty list if nothing is."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    found = []
    if sum("parameters" in c.metadata.get("tags", []) for c in code) != 1:
        found.append("not exactly one cell is tagged 'parameters'")
    lengths = sorted(len(c.source.splitlines()) for c in code)
    if lengths[len(lengths) // 2] >= 8:
        found.append(f"the median code cell has {lengths[len(lengths) // 2]} lines")
    count = 0
    for number, cell in enumerate(notebook.cells):
        where = f"cell {number}"
        if cell.cell_type != "code":
            continue
        if re.search(
            r"^\s*(async )?def |^\s*class ", cell.source, re.M
        ) and "shown" not in cell.metadata.get("tags", []):
            found.append(f"{where} defines something, and is not tagged 'shown'")
        count += 1
        if cell.execution_count != count:
            found.append(f"{where} was not executed in a run from top to bottom")
        for output in cell.outputs:
            text = str(output.get("text", "")) + str(
                {k: v for k, v in output.get("data", {}).items() if "image" not in k}
            )
            if machine := MACHINE.search(text):
                found.append(f"{where} has an output that depends on the machine: {machine[0]!r}")
            if "image/png" in output.get("data", {}) and not output.metadata.get(
                "image/png", {}
            ).get("alt"):
                found.append(f"{where} has a figure without alt text")
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get(
                "tags", []
            ):
                found.append(f"{where} ends with an error")
            if output.get("name") == "stderr":
                found.append(f"{where} has output on stderr")
    return found


def main() -> None:
    """Execute, clean, check and write every notebook, and the README's picture; exit with status 1 if one is not as it should be."""
    import nbformat

    os.environ |= QUIET
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            executed = Path(folder) / path_of(step).name
            try:
                execute(step, executed, {})
            except UserError as error:
                sys.exit(str(error))
            notebook = clean(nbformat.read(executed, as_version=4))
            nbformat.write(notebook, path_of(step))
            if step == "train":
                images = [
                    o.data["image/png"]
                    for c in notebook.cells
                    for o in c.get("outputs", [])
                    if "image/png" in o.get("data", {})
                ]
                (FOLDER / "losses.png").write_bytes(base64.b64decode(images[-1]))
            found = problems(path_of(step))
            failed |= bool(found)
            print(f"{path_of(step).name}: {'; '.join(found) or 'executed, clean'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()

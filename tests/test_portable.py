"""Linux, macOS, Windows: nothing that one of them lacks is used unguarded, all works without."""

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
import pytest
import yaml

from helpers.engine import files
from helpers.engine.memory import memory_of, peak_memory
from helpers.engine.progress import FILE, Progress
from helpers.errors import RunError
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS
from helpers.runs.step import start_step
from tests import PROJECT


def named(module: str, names: str) -> set[str]:
    return {f"{module}.{name}" for name in names.split()}


# Not on all three systems, or other there; `module.name`, or a module as a whole.
LACKING = {
    "crypt", "curses", "fcntl", "grp", "msvcrt", "nis", "pty", "pwd", "readline", "resource",
    "syslog", "termios", "tty", "winreg", "_winapi",
    *named("os", """chown chroot ctermid fchmod fchown fdatasync fork forkpty getegid geteuid
getgid getloadavg getpgid getpgrp
getpriority getresuid getsid getuid killpg lchown mkfifo mknod nice pathconf pipe2 posix_fadvise
posix_fallocate posix_spawn pread preadv pwrite sched_getaffinity sched_setaffinity sendfile
setgid setpgid setpriority setsid setuid startfile statvfs sync sysconf tcgetpgrp
ttyname uname wait wait3 wait4
O_BINARY O_CLOEXEC O_DIRECTORY O_DIRECT O_NOFOLLOW O_NONBLOCK O_SYNC O_TMPFILE RTLD_GLOBAL"""),
    *named("signal", """CTRL_BREAK_EVENT CTRL_C_EVENT SIGALRM SIGBREAK SIGCHLD SIGCONT
SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause
pthread_kill pthread_sigmask setitimer siginterrupt sigwait sigpending"""),
    "time.tzset", "time.pthread_getcpuclockid", "socket.AF_UNIX", "select.poll", "select.epoll",
    "subprocess.CREATE_NEW_PROCESS_GROUP", "subprocess.CREATE_NO_WINDOW", "subprocess.STARTUPINFO",
    # These are there, and do other things:
    "os.rename",  # Windows refuses it where the target exists; os.replace does not
    "os.kill",  # Windows ends the process, whatever the signal
    "os.getppid",  # of a process whose parent has ended, Windows goes on to name that
    "os.link", "os.symlink",  # some disks have none
    # Arguments:
    "pass_fds=", "preexec_fn=", "umask=", "process_group=", "dir_fd=",
}  # fmt: skip


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package, and the script that makes its environment."""
    paths = [*(PROJECT / "helpers").rglob("*.py"), *PROJECT.glob("start.py")]
    return {
        p.relative_to(PROJECT).as_posix(): ast.parse(p.read_text(encoding="utf-8")) for p in paths
    }


def parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def is_guarded(node: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    """Whether it stands in a `try` that handles its lack, or under an `if` about the system."""
    while node in above:
        child, node = node, above[node]
        if isinstance(node, ast.Try) and child in node.body:
            caught = [name for h in node.handlers for name in ast.walk(h.type or ast.Name("all"))]
            known = {"ImportError", "ModuleNotFoundError", "AttributeError", "OSError"}
            if known & {name.id for name in caught if isinstance(name, ast.Name)}:
                return True
        if isinstance(node, ast.If | ast.IfExp) and child is not node.test:
            asked = ast.unparse(node.test)
            if any(word in asked for word in ("sys.platform", "os.name", "hasattr(")):
                return True
    return False


def uses(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """The imports, attributes and arguments in some code, as `module`, `module.name` or `name=`."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node, node.module.split(".")[0]))
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.append((node, f"{node.value.id}.{node.attr}"))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(".rename") and called != "os.rename" and node.args:  # of a Path
                found.append((node, "os.rename"))
            found += [(node, f"{k.arg}=") for k in node.keywords]
    return found


def unguarded(tree: ast.AST) -> list[str]:
    above = parents(tree)
    return [
        f"{node.lineno}: {use}"
        for node, use in uses(tree)
        if use in LACKING and not is_guarded(node, above)
    ]


def test_nothing_that_a_system_lacks_is_used_unguarded():
    wrong = {name: unguarded(tree) for name, tree in sources().items()}
    assert not {name: lines for name, lines in wrong.items() if lines}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import fcntl", 1),
        ("from resource import getrusage", 1),
        ("import os\ndef f():\n    os.fork()", 1),
        ("import signal\nsignal.signal(signal.SIGHUP, None)", 1),
        ("import subprocess\nsubprocess.run([], pass_fds=(1,))", 1),
        ("import os\nos.rename('a', 'b')", 1),
        ("path.rename('b')", 1),
        ("table.rename(columns={})", 0),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", 0),
        ("try:\n    pass\nexcept ImportError:\n    import fcntl", 1),
        ("try:\n    import fcntl\nexcept ValueError:\n    pass", 1),
        ("import os\nif hasattr(os, 'fork'):\n    os.fork()", 0),
        ("import os\nif os.fork():\n    pass", 1),
        ("import sys\nif sys.platform != 'win32':\n    import resource", 0),
        ("import signal\ngetattr(signal, 'SIGHUP', None)", 0),
        ("import signal\nsignal.SIGTERM, signal.SIGINT", 0),
    ],
)
def test_the_reader_finds_what_is_unguarded(code, found):
    assert len(unguarded(ast.parse(code))) == found


def without_encoding(tree: ast.AST) -> list[str]:
    """Text files that are opened in the system's own encoding, which on Windows is a code page."""
    wrong = []
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else called
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        is_text = not any(isinstance(mode, str) and "b" in mode and len(mode) < 4 for mode in modes)
        given = {keyword.arg for keyword in node.keywords}
        named = isinstance(node.func, ast.Attribute) and called in ("read_text", "write_text")
        opens = named or (called == "open" and is_text)
        true = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value}
        decodes = bool(true & {"text", "universal_newlines"})  # of subprocess
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in ("os", "tokenizers"):
            continue
        elsewhere = called == "open" and isinstance(owner, ast.Name) and owner.id == "gzip"
        if (opens or decodes) and not elsewhere and not given & {"encoding", None}:
            wrong.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return wrong


def test_every_text_file_is_opened_in_a_named_encoding():
    wrong = {name: without_encoding(tree) for name, tree in sources().items()}
    assert not {name: lines for name, lines in wrong.items() if lines}
    for code in ("open('a')", "p.read_text()", "p.write_text('b')", "run([], text=True)"):
        assert without_encoding(ast.parse(code)), code
    assert not without_encoding(ast.parse("open('a', 'rb'); p.open('wb'); p.read_bytes()"))


def test_times_are_written_in_ways_that_every_system_knows():
    """Windows has no %F, %T, %e, %s or %-d."""
    for name, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("strftime"):
                text = next(a.value for a in node.args if isinstance(a, ast.Constant))
                assert set(text[i + 1] for i, c in enumerate(text) if c == "%") <= set(
                    "YmdHMSj%"
                ), name


SMALL = {
    "load.validation_size": 0.2,
    "load.test_size": 0.2,
    "chunk.block_size": 64,
    "train.num_train_epochs": 0.1,
    "infer.max_new_tokens": 3,
    "evaluate.stride": 256,
    "compute_dtype": "float32",
}
TEXTS = ("a river – “deep”, ≈ 3 m", "Ein Fluß, größer", "река и мост", "川と橋 🌉", "un œuf à 5 €")


@pytest.fixture
def tmp_path():
    """A folder with a short path: below pytest's own, names of sockets become too long."""
    with tempfile.TemporaryDirectory(prefix="w", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def windows(tmp_path):
    """Start the command line as on Windows, with a code page; in it, `small.jsonl`."""
    if not sys.platform.startswith("linux"):
        pytest.skip(f"what Windows refuses is imitated on Linux, this is {sys.platform}")
    site, temporary = tmp_path / "site", tmp_path / "temporary"
    site.mkdir()
    temporary.mkdir()
    code = (PROJECT / "tests" / "windows_like.py").read_text(encoding="utf-8")
    (site / "sitecustomize.py").write_text(code, encoding="utf-8")
    lines = [
        {"answers": {"text": [f"{t}, number {n}, is a text of its own"]}}
        for n in range(8)
        for t in TEXTS
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "small.jsonl").write_text(text, encoding="utf-8")
    variables = {
        "WINDOWS_LIKE": os.path.realpath(tmp_path), "PYTHONPATH": f"{site}{os.pathsep}{PROJECT}",
        "TMPDIR": str(temporary), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C",
        "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_CTYPE")}

    def start(*arguments, **more):
        command = [sys.executable, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(command, cwd=tmp_path, env=environment | variables, **pipes)

    return start


def ends(process: subprocess.Popen, status: int = 0) -> str:
    out, error = process.communicate(timeout=900)
    assert process.returncode == status, (out + error).decode("cp1252", "replace")
    assert b"Traceback" not in error
    return out.decode("cp1252")


def small_run(tmp_path, name="run"):
    settings = SMALL | {"load.dataset": str(tmp_path / "small.jsonl")}
    words = [word for key, value in settings.items() for word in ("-p", f"{key}={value}")]
    return ["-m", "helpers", "run", "--run-dir", str(tmp_path / name), *words]


CHECK = """
import os, signal, subprocess, sys
from pathlib import Path
for name in ("fcntl", "resource"):
    try:
        __import__(name); print(name)
    except ImportError:
        pass
kill, hup = hasattr(signal, "SIGKILL"), hasattr(signal, "SIGHUP")
print([n for n in ("fork", "killpg") if hasattr(os, n)], kill, hup)
def refused(do, *how, **more):
    try:
        do(*how, **more)
    except (OSError, ValueError):
        return
    print("done", do, how)
folder = Path(sys.argv[1])
(folder / "d").mkdir(); (folder / "d" / "a").write_text("1"); (folder / "b").write_text("2")
refused(subprocess.Popen, ["true"], pass_fds=(1,))
refused(os.rename, folder / "b", folder / "d" / "a")
refused(os.open, folder, os.O_RDONLY)
refused(os.fsync, os.open(folder / "b", os.O_RDONLY))
refused(os.link, folder / "b", folder / "c")
with open(folder / "d" / "a"):
    refused(os.replace, folder / "d", folder / "e")
    refused(os.unlink, folder / "d" / "a")
os.replace(folder / "d", folder / "e")
print(sys.stdout.encoding, __import__("locale").getpreferredencoding(False))
"""


def test_the_imitation_refuses_what_windows_does(windows, tmp_path):
    assert ends(windows("-c", CHECK, str(tmp_path))).split("\n") == [
        "[] False False",
        "cp1252 ANSI_X3.4-1968",
        "",
    ]


@pytest.mark.full
def test_a_whole_run(windows, tmp_path):
    said = ends(windows(*small_run(tmp_path)))
    assert "ok 01_load" in said and "perplexity" in said and "report" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "ok" and list(record["steps"]) == list(STEPS)
    assert not list((tmp_path / "temporary").glob("clm-notebooks-*"))


@pytest.mark.full
def test_a_run_that_is_killed_there_goes_on(windows, tmp_path):
    runner, until = windows(*small_run(tmp_path)), time.monotonic() + 600
    while not (tmp_path / "run" / ".04_train.partial").exists():
        assert time.monotonic() < until
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.1)
    family = psutil.Process(runner.pid).children(recursive=True)
    runner.kill()
    runner.communicate()
    assert len(family) >= 2 and not psutil.wait_procs(family, timeout=20)[1]
    assert "done already" in ends(windows(*small_run(tmp_path)))
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "ok" and record["steps"]["chunk"]["done"] == "before"
    left = [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]
    assert left == [".locks"]


@pytest.mark.full
def test_a_sweep_of_two_needs_nothing_that_windows_lacks(windows, tmp_path):
    chosen = SMALL | {"load.dataset": str(tmp_path / "small.jsonl")}
    sweep = {"set": chosen, "list": [{"train.seed": 1}, {"train.seed": 2}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    arguments = [str(tmp_path / "sweep.yaml"), "--sweep-dir", str(tmp_path / "out"), "--jobs", "2"]
    said = ends(windows("-m", "helpers", "sweep", *arguments))
    assert "ok 0  perplexity" in said and "ok 1  perplexity" in said
    records = [
        json.loads((tmp_path / "out" / n / "run.json").read_text(encoding="utf-8")) for n in "01"
    ]
    for step in ("load", "preprocess", "chunk"):
        assert sorted(record["steps"][step]["done"] for record in records) == ["before", "ok"]


# Publishing a step whose files are mapped into memory, as a notebook's data set is.

MAPPED = """
import sys, numpy as np
from helpers.runs.step import start_step
for version in range(3):
    step = start_step("load", sys.argv[1], seed=version)
    (step.path / "data").mkdir()
    array = np.lib.format.open_memmap(step.path / "data" / "a.npy", "w+", np.int8, (9,))
    array[:] = version
    array.flush()
    step.finish()
    kept = array if version else None  # the first is let go of, the second not
print(sorted(p.name for p in step.run.folder.iterdir()))
"""


def test_a_step_is_published_whose_data_its_own_notebook_has_mapped(windows, tmp_path):
    said = ends(windows("-c", MAPPED, str(tmp_path / "run")))
    assert "'01_load'" in said
    run = Run(tmp_path / "run")
    assert run.problem("load") is None and run.record("load")["parameters"] == {"seed": 2}
    assert (run.path("load") / "data" / "a.npy").read_bytes()[-9:] == bytes([2] * 9)


READER = """
import sys, numpy as np
array = np.load(sys.argv[1], mmap_mode="r")
print("mapped", flush=True)
sys.stdin.read()
"""
AGAIN = """
import sys
from helpers.errors import RunError
from helpers.runs.step import start_step
step = start_step("load", sys.argv[1], seed=7)
(step.path / "a.npy").write_bytes(b"new")
try:
    step.finish()
except RunError as error:
    print(error, flush=True)
open(sys.argv[2], "w").close()
sys.stdin.readline()
step.finish()
"""


def test_an_artifact_that_another_notebook_has_mapped_is_replaced_once_that_has_ended(
    windows, tmp_path
):
    import numpy as np

    step = start_step("load", str(tmp_path / "run"), seed=1)
    np.save(step.path / "a.npy", np.arange(9))
    step.finish()
    reader = windows(
        "-c", READER, str(tmp_path / "run" / "01_load" / "a.npy"), stdin=subprocess.PIPE
    )
    assert reader.stdout.readline() == b"mapped\n"
    again = windows(
        "-c", AGAIN, str(tmp_path / "run"), str(tmp_path / "tried"), stdin=subprocess.PIPE
    )
    said = again.stdout.readline().decode()
    assert "load cannot replace 01_load in" in said and "shut the kernels" in said
    assert Run(tmp_path / "run").record("load")["parameters"] == {"seed": 1}
    assert Run(tmp_path / "run").problem("load") is None
    reader.communicate(b"")
    again.communicate(b"\n")
    assert again.returncode == 0
    assert Run(tmp_path / "run").record("load")["parameters"] == {"seed": 7}


# Names, paths, memory.


@pytest.mark.parametrize(
    "name", ["con", "runs/NUL", "runs/aux.txt", "a./b", "runs/mine.", "mine ", "COM1", "lpt9.x/y"]
)
def test_names_that_windows_keeps_for_itself_are_refused(name):
    with pytest.raises(RunError, match="^run_dir is .*: Windows has no folders named '.*', choose"):
        Run(name)


@pytest.mark.parametrize("name", ["console", "runs/../runs/a", "./a", "com", "a.b", ".hidden"])
def test_names_that_only_look_like_those_are_taken(name):
    assert Run(name).folder.is_absolute()


def test_a_path_with_backslashes_means_folders_or_is_refused():
    if os.sep == "\\":
        assert Run("runs\\mine").folder == Run("runs/mine").folder
        assert Run("runs\\mine").shown == "runs/mine"
    else:
        with pytest.raises(RunError, match="run_dir is .*mine': separate folders with / on this"):
            Run("runs\\mine")


def test_a_folder_on_another_drive_is_shown_as_a_whole(monkeypatch, tmp_path):
    def refuse(path, start):
        raise ValueError(f"path is on mount {path!r}, start on mount {start!r}")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert files.relative(tmp_path) == tmp_path.as_posix() == Run(tmp_path).shown


def test_a_file_that_is_open_for_a_moment_is_replaced_after_it(tmp_path, monkeypatch):
    calls, replace = [], os.replace

    def busy(source, target):
        calls.append(source)
        if len(calls) < 4:
            raise PermissionError(13, "being used by another process")
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    files.replace(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text" and len(calls) == 4
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "a", "other")
    assert (tmp_path / "a").read_text() == "text"


def test_progress_that_is_being_read_ends_no_training(tmp_path, monkeypatch):
    monkeypatch.setenv(FILE, str(tmp_path / "progress"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    Progress(5, "steps").advance(1)


def test_the_peak_is_in_bytes_and_that_of_this_process():
    code = "import sys; x = b'1' * 10**8; del x; "
    code += "from helpers.engine.memory import peak_memory as p; print(p())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=PROJECT, check=True)
    assert 1e8 < int(out.stdout) < 1e9
    me = psutil.Process()
    assert peak_memory() >= 0.5 * me.memory_info().rss
    assert 0.5 < memory_of([me, me]) / (2 * me.memory_info().rss) < 2


@pytest.mark.parametrize(("platform", "factor"), [("linux", 1024), ("darwin", 1)])
def test_the_unit_of_the_peak_is_the_systems(monkeypatch, platform, factor):
    resource = pytest.importorskip("resource", reason="this system has no module resource")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: type("Usage", (), {"ru_maxrss": 3}))
    assert peak_memory() == 3 * factor

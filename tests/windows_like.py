"""What Windows lacks or refuses, made to fail here: put on PYTHONPATH as `sitecustomize.py`.

Attributes, modules and signals are missing for this package and for what is executed as a script
or a notebook; libraries know their own ways on Windows, and keep theirs of this system here. For
everybody, a file that any process of the test has open or mapped can be neither renamed nor
removed, nor can the folders above it, and nothing can be renamed over what exists.
"""

import builtins
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import psutil

FOLDER = os.environ["WINDOWS_LIKE"]  # of the test; elsewhere, files can be renamed as usual
PIDS = Path(FOLDER) / ".pids"
MODULES = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
LACKING = {
    os: """fork forkpty killpg setsid getpgid getsid getuid geteuid getgid chown mkfifo nice uname
        statvfs sched_getaffinity sched_setaffinity sysconf wait wait3 wait4 getloadavg fchmod
        O_DIRECTORY O_NOFOLLOW O_CLOEXEC""",
    signal: """SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT alarm
        setitimer pause pthread_kill sigwait siginterrupt""",
}


def _is_ours(depth: int) -> bool:
    names = sys._getframe(depth + 1).f_globals
    spec = names.get("__spec__")
    return (spec.name if spec else names.get("__name__", "")).split(".")[0] in (
        "helpers",
        "__main__",
    )


def _lack(module: types.ModuleType, names: list[str]) -> None:
    kept = {name: getattr(module, name) for name in names if hasattr(module, name)}

    class Lacking(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            if name in kept and not _is_ours(1):
                return kept[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    for name in kept:
        delattr(module, name)
    module.__class__ = Lacking


def _import(name, globals=None, locals=None, fromlist=(), level=0, real=builtins.__import__):
    if name.split(".")[0] in MODULES and not level and _is_ours(1):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return real(name, globals, locals, fromlist, level)


def _start(self, *arguments, real=subprocess.Popen.__init__, **settings):
    for name in ("pass_fds", "preexec_fn"):
        if settings.get(name):
            raise ValueError(f"{name} is not supported on Windows platforms")
    real(self, *arguments, **settings)


def _signal(self, number, real=subprocess.Popen.send_signal):
    if _is_ours(1) and number != signal.SIGTERM:
        raise ValueError(f"Unsupported signal: {number}")
    real(self, number)


def _is_open(path: str) -> bool:
    """Whether a process of the test has a file open or mapped that is this one or lies below it."""
    for pid in os.listdir(PIDS):
        found = []
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                try:
                    found.append(os.readlink(entry.path))
                except OSError:  # closed just now
                    continue
            with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
                found += [line.rstrip("\n").partition("/")[2] for line in maps if "/" in line]
        except OSError:  # it has ended
            continue
        names = {"/" + name.removeprefix("/") for name in found}
        if any(name == path or name.startswith(path + "/") for name in names):
            return True
    return False


def _refuse_open(path: object, *others: object) -> None:
    for one in (path, *others):
        name = os.path.realpath(os.fsdecode(one))
        if name.startswith(FOLDER + "/") and os.path.exists(name) and _is_open(name):
            raise PermissionError(errno.EACCES, "being used by another process", str(one))


def _rename(source, target, real=os.rename, **where):
    if os.path.exists(target):
        raise FileExistsError(errno.EEXIST, "Cannot create a file that exists", str(target))
    _refuse_open(source)
    real(source, target, **where)


def _replace(source, target, real=os.replace, **where):
    if os.path.isdir(target):
        raise PermissionError(errno.EACCES, "Access is denied", str(target))
    _refuse_open(source, target)
    real(source, target, **where)


def _removing(real):
    def remove(path, *arguments, **where):
        if not where.get("dir_fd"):
            _refuse_open(path)
        real(path, *arguments, **where)

    return remove


def _open(path, flags, *rest, real=os.open, **where):
    if _is_ours(1) and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return real(path, flags, *rest, **where)


def _fsync(descriptor, real=os.fsync):
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    real(descriptor)


def _link(source, target, **where):
    raise OSError(errno.EPERM, "no hard links on this disk", str(source))


def _memory(self, real=psutil.Process.memory_info):
    found = real(self)
    return types.SimpleNamespace(**found._asdict(), peak_wset=found.rss)


PIDS.mkdir(exist_ok=True)
(PIDS / str(os.getpid())).touch()
for module, names in LACKING.items():
    _lack(module, names.split())
builtins.__import__ = _import
subprocess.Popen.__init__, subprocess.Popen.send_signal = _start, _signal
os.rename, os.replace, os.open, os.fsync, os.link = _rename, _replace, _open, _fsync, _link
os.unlink, os.remove, os.rmdir = (_removing(f) for f in (os.unlink, os.remove, os.rmdir))
shutil._use_fd_functions = False  # rmtree by paths, as on Windows
psutil.Process.memory_info = _memory

"""start.py: what it says and does, on a small project with packages and a wheelhouse made here."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import start
from tests import PROJECT
from tools import wheelhouse

# The Python that an environment is made from: not that of the environment which runs the tests.
BASE = getattr(sys, "_base_executable", sys.executable)
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
ALONE = ("PIP_", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
HELPERS = """
import signal, sys, time, tiny_one
if sys.argv[1:3] == ["run", "wait"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
    print("waiting", flush=True)
    time.sleep(60)
print(tiny_one.VALUE, *sys.argv[1:], sys.flags.utf8_mode)
sys.exit(3 if "fail" in sys.argv else 0)
"""


def make_wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel with one module that says its version."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}.py": f"VALUE = '{name} {version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


def make_project(parent: Path) -> Path:
    """start.py with two packages and one for tests, in a folder with a space and an umlaut."""
    folder = parent / "Übung eins"
    (folder / "helpers").mkdir(parents=True)
    shutil.copy(PROJECT / "start.py", folder)
    (folder / "helpers" / "__init__.py").touch()
    (folder / "helpers" / "__main__.py").write_text(HELPERS)
    for name, version in (("tiny-one", "1.0"), ("tiny-two", "2.0"), ("tiny-dev", "1.0")):
        make_wheel(parent / "links", name, version)
    (folder / "requirements.lock").write_text(
        "# small\ntiny-one==1.0\ntiny-two==2.0\nabsent==1 ; sys_platform == 'nowhere'\n"
    )
    (folder / "requirements-dev.lock").write_text("-r requirements.lock\ntiny-dev==1.0\n")
    return folder


@pytest.fixture
def project(tmp_path):
    """A project without an environment."""
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project with an environment, which start.py has made, and what was said of it."""
    folder = make_project(tmp_path_factory.mktemp("template"))
    return folder, call(folder, "run", "--profile", "tiny", **links(folder))


@pytest.fixture
def ready(template, project):
    """A project with a copy of that environment, as if start.py had made it there."""
    shutil.copytree(template[0] / ".venv", project / ".venv", symlinks=True)
    state = project / ".venv" / "start.json"
    state.write_text(state.read_text().replace(str(template[0].parent), str(project.parent)))
    return project


@pytest.fixture
def filled(project, monkeypatch):
    """What fills the wheelhouse of a project, for this system."""
    monkeypatch.setattr(wheelhouse, "PROJECT", project)
    monkeypatch.setattr(wheelhouse, "LOCK", project / "requirements.lock")
    for name, value in links(project).items():
        monkeypatch.setenv(name, value)
    version = ".".join(map(str, sys.version_info[:2]))
    return lambda: wheelhouse.fill(wheelhouse.this_system(), version)


def begin(folder, *arguments, **variables):
    """Start a project's start.py; what it says of itself is in stderr."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ALONE)}
    return subprocess.Popen(
        [BASE, "start.py", *arguments],
        cwd=folder,
        env={**clean, **NOWHERE, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def call(folder, *arguments, **variables):
    """Run a project's start.py to its end."""
    process = begin(folder, *arguments, **variables)
    out, said = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def links(folder):
    """Variables with which pip finds the packages beside a project."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (folder.parent / "links").as_uri()}


def has(folder, module):
    """Whether a project's environment has a module."""
    python = folder / start.PYTHON.relative_to(start.PROJECT)
    return subprocess.run([python, "-c", f"import {module}"], stderr=-3).returncode == 0


def test_from_nothing_to_the_first_result(template):
    folder, first = template
    assert first.stdout == "tiny-one 1.0 run --profile tiny 1\n", first.stderr
    assert first.returncode == 0 and first.stderr.startswith("Python 3.")
    assert "Making .venv" in first.stderr and "The environment is ready" in first.stderr
    again = call(folder, "run", "fail")
    assert again.returncode == 3 and again.stderr.count("\n") == 1  # the first line alone
    assert has(folder, "tiny_two") and not has(folder, "tiny_dev")


def test_a_wheelhouse_is_enough_and_the_index_adds_what_tests_need(ready, filled):
    made = (ready / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    python = ready / start.PYTHON.relative_to(start.PROJECT)
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "tiny-one", "tiny-two"], check=True)
    (ready / ".venv" / "start.json").unlink()
    name = filled().name
    refused = call(ready, "env", "--dev")
    assert f"Packages come from wheelhouse/{name}, without a network." in refused.stderr
    assert refused.returncode == 1 and "The package index cannot be reached" in refused.stderr
    assert has(ready, "tiny_one") and not has(ready, "tiny_dev")
    whole = call(ready, "env", "--dev", **links(ready))
    assert whole.returncode == 0 and has(ready, "tiny_dev"), whole.stderr
    assert (ready / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made
    assert call(ready, "run").stdout == "tiny-one 1.0 run 1\n"


def test_a_moved_project_gets_a_new_environment(ready):
    moved = ready.parent / "elsewhere"
    ready.rename(moved)
    there = call(moved, "run", **links(moved))
    assert f"The project has been moved here from {ready}: .venv is made anew." in there.stderr
    assert there.stdout == "tiny-one 1.0 run 1\n"


def test_interrupted_it_goes_on_and_a_new_lock_is_installed_in_place(ready):
    site = next((ready / ".venv").rglob("tiny_one.py")).parent
    made = (ready / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    # As pip leaves it when it is killed within a package: described, but not all there.
    (site / "tiny_one-1.0.dist-info" / "INSTALLER").unlink()
    (site / "tiny_one.py").unlink()
    (ready / ".venv" / "start.json").write_text('{"folder": ')
    again = call(ready, "run", **links(ready))
    assert again.stdout == "tiny-one 1.0 run 1\n" and "what is missing" in again.stderr

    make_wheel(ready.parent / "links", "tiny-one", "1.1")
    lock = ready / "requirements.lock"
    lock.write_text(lock.read_text().replace("tiny-one==1.0", "tiny-one==1.1"))
    newer = call(ready, "run", **links(ready))
    assert newer.stdout == "tiny-one 1.1 run 1\n"
    assert (ready / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made


def test_a_second_one_waits_until_the_first_has_ended_or_was_killed(project):
    """The lock is held by a process that is killed, as a crash would end it."""
    (project / ".venv" / "bin").mkdir(parents=True)  # an environment that is not whole
    code = (
        "import start, time\nwith start.one_at_a_time(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([BASE, "-c", code], cwd=project, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        try:
            both = [begin(project, "run", **links(project)) for _ in range(2)]
            for process in both:
                assert process.stderr.readline().startswith("Python 3.")
                assert "this one waits" in process.stderr.readline()
            assert os.listdir(project / ".venv") == ["bin"]
        finally:
            holder.kill()
    outcomes = [process.communicate() for process in both]
    assert [out for out, _ in outcomes] == ["tiny-one 1.0 run 1\n"] * 2
    anew = ["not whole, or its Python is gone: .venv is made anew" in said for _, said in outcomes]
    assert sorted(anew) == [False, True]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
def test_a_signal_to_end_is_passed_on(ready):
    process = begin(ready, "run", "wait")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=50)[1].endswith("saved\n") and process.returncode == 1


def test_without_a_network_or_with_a_changed_wheel_one_sentence_says_it(ready, filled):
    (ready / ".venv" / "start.json").unlink()
    shutil.rmtree(next((ready / ".venv").rglob("tiny_two-2.0.dist-info")))
    refused = call(ready, "run")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "The package index cannot be reached, and there is no wheelhouse" in refused.stderr
    folder = filled()
    with (folder / "tiny_two-2.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"\0")
    changed = call(ready, "run")
    assert "A file in wheelhouse/ is missing or damaged" in changed.stderr
    (folder / "requirements.lock").write_text("tiny-one==0.9\n")
    assert "made from another requirements.lock" in call(ready, "run").stderr
    folder.rename(folder.with_name("win_arm64-3.99"))
    assert "wheelhouse/ is for win_arm64-3.99, and not for this" in call(ready, "run").stderr


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ("sys.version_info = (3, 10, 1)", "Python 3.11 or newer is needed"),
        ("sys.modules['ensurepip'] = None", "This Python has no module venv"),
        ("sys.maxsize = 2**31 - 1", "This is a 32-bit Python"),
        (
            "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=10**9)",
            "the disk of",
        ),
    ],
)
def test_what_could_only_fail_later_is_said_at_once(project, before, sentence):
    code = f"import runpy, sys; sys.argv = ['start.py', 'env']; {before}; "
    code += "runpy.run_path('start.py', run_name='__main__')"
    done = subprocess.run([BASE, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (project / ".venv").exists()


def test_an_older_python_can_read_it_up_to_its_sentence():
    source = (PROJECT / "start.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert source.isascii()


def test_it_needs_the_standard_library_alone():
    tree = ast.parse((PROJECT / "start.py").read_text(encoding="utf-8"))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {
        "msvcrt",
        "winreg",
    }


def test_an_unknown_command_and_help_name_the_commands(capsys):
    assert start.main(["jupyter"]) == 1
    assert (
        "There is no command 'jupyter'; there are lab, reset, run, test" in capsys.readouterr().err
    )
    assert start.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"start.py {name}" in shown for name in start.COMMANDS if name != "lab")


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full"),
        ("(from versions: none)\nERROR: No matching distribution found for a==1", "reached"),
        ("ERROR: No matching distribution found for torch==2", "There is no torch==2 for Python"),
        ("ERROR: one\nERROR: two", "pip could not install the packages: two"),
        ("", "no reason given"),
    ],
)
def test_why_pip_failed_is_one_sentence(log, sentence):
    assert sentence in start.explain(log, False)
    damaged = "wheelhouse/ is missing or damaged"
    assert damaged in start.explain("ERROR: No matching distribution found for a==1", True)


def test_progress_counts_what_is_found_and_then_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LOG", tmp_path / "log")
    start.LOG.write_text("Collecting a==1\nProcessing ./b.whl\nCollecting a==1\n")
    assert start.progress(5, tmp_path) == "2 of 5 packages found"
    start.LOG.write_text("Collecting a==1\nInstalling collected packages: a-b.c, d\n")
    for name in ("A_b_c-1.dist-info", "other-1.dist-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "INSTALLER").touch()
    (tmp_path / "d-1.dist-info").mkdir()
    assert start.progress(5, tmp_path) == "1 of 2 packages installed"


def test_an_environment_that_has_all_is_taken_and_doctor_names_what_one_lacks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(start, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(start, "PYTHON", tmp_path / ".venv" / "python")
    assert start.environment() == sys.executable
    monkeypatch.setattr(start, "LOCK", tmp_path / "requirements.lock")
    start.LOCK.write_text("pip==0.1\nno-such-package==1.0\nother==1 ; os_name == 'nowhere'\n")
    assert start.doctor() == 1
    assert "2 packages of requirements.lock are missing" in capsys.readouterr().err
    monkeypatch.setattr(start, "VENV", Path(sys.prefix))
    assert not start.in_another_environment()


def test_lab_opens_the_first_copy_with_the_settings_for_learners(monkeypatch, tmp_path, capsys):
    called = []
    (tmp_path / "work" / "notebooks").mkdir(parents=True)
    for name in ("00_idea.ipynb", "01_load.ipynb"):
        (tmp_path / "work" / "notebooks" / name).touch()
    monkeypatch.setattr(start, "PROJECT", tmp_path)
    monkeypatch.setattr(start, "environment", lambda: "python")
    monkeypatch.setattr(start, "is_current", lambda whole: True)
    monkeypatch.setattr(start, "call", lambda *a, **v: called.append((a, v)) or 0)
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    assert start.lab("--no-browser") == 0
    copy, (lab, variables) = called
    assert copy[0] == ("python", "-m", "helpers.workshop.copies")
    assert lab[2:] == (
        "jupyterlab",
        "--notebook-dir=.",
        "work/notebooks/00_idea.ipynb",
        "--no-browser",
        "--allow-root",
    )
    assert variables["JUPYTER_CONFIG_PATH"].split(os.pathsep)[1] == "mine"
    assert "JupyterLab runs as root" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    assert start.lab() == 0 and called[-1][0][-1] == "work/notebooks/00_idea.ipynb"
    assert not capsys.readouterr().err


def test_jupyterlab_takes_the_settings_for_learners(monkeypatch):
    """Each setting is one that this JupyterLab has, with the value that its schema allows."""
    labapp = pytest.importorskip("jupyterlab.labapp")
    from jsonschema import validate
    from jupyter_core.paths import jupyter_path
    from jupyterlab_server.settings_utils import get_settings

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(PROJECT / "workshop" / "jupyter"))
    schemas = Path(labapp.get_app_dir()) / "schemas"
    extensions = jupyter_path("labextensions")
    file = PROJECT / "workshop" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    for plugin, wanted in json.loads(file.read_text(encoding="utf-8")).items():
        (found, _) = get_settings("", str(schemas), "", plugin, labextensions_path=extensions)
        validate(wanted, found["schema"])
        for name, value in wanted.items():
            assert found["schema"]["properties"][name]["default"] == value


def test_reset_needs_a_name(monkeypatch, capsys):
    monkeypatch.setattr(start, "environment", lambda: "python")
    monkeypatch.setattr(start, "call", lambda *a: print(*a) or 0)
    assert start.main(["reset"]) == 1
    assert "reset needs the number of a notebook" in capsys.readouterr().err
    assert start.main(["reset", "03"]) == 0
    assert capsys.readouterr().out == "python -m helpers.workshop.copies 03\n"


@pytest.mark.parametrize(("options", "chosen"), [([], start.QUICK), (["--full"], start.FULL)])
def test_the_tests_are_the_notebooks_and_then_the_rest(monkeypatch, options, chosen):
    called = []
    monkeypatch.setattr(start, "environment", lambda whole: "python" if whole else None)
    monkeypatch.setattr(start, "call", lambda *a, **v: called.append((a, v)) or len(called) == 3)
    assert start.test(*options) == 0
    assert called[0][0] == ("python", "-m", "pytest", "-q", "notebooks")
    assert called[1][0][-1] == chosen and called[1][1]["OMP_NUM_THREADS"] == "1"
    assert start.test() is True and len(called) == 3  # a notebook that fails ends it


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("run", "run --profile tiny"),
        ("test", "test"),
        ("test-full", "test --full"),
        ("lab", "lab"),
        ("env", "env --dev"),
        ("wheelhouse", "wheelhouse"),
        ("kit", "kit"),
    ],
)
def test_make_calls_start(target, command):
    alone = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # not part of a make
    make = ["make", "-n", target]
    shown = subprocess.run(make, cwd=PROJECT, env=alone, capture_output=True, text=True)
    assert shown.stdout.strip().split("start.py ")[-1] == command


def test_a_wheelhouse_takes_what_each_system_and_python_needs():
    def names(tag, version):
        return {r.name for r in wheelhouse.lines_for(tag, version)}

    windows, linux = names("win_amd64", "3.12.1"), names("manylinux_2_28_x86_64", "3.12.1")
    assert {"colorama", "pywinpty", "hf-xet"} <= windows and not {"pexpect", "appnope"} & windows
    assert "pexpect" in linux and not {"colorama", "appnope", "pywinpty"} & linux
    assert {"appnope", "pexpect"} <= names("macosx_14_0_arm64", "3.13.0")
    assert "aiohttp" in windows and "aiohttp" not in names("win_amd64", "3.11.9")
    versions = {str(r) for p in (2, 9) for r in wheelhouse.lines_for("win_amd64", f"3.11.{p}")}
    assert len([line for line in versions if line.startswith("soupsieve==")]) == 2


@pytest.mark.parametrize("name", ["windows", "3", "macosx_arm64", "linux_x86_64"])
def test_a_wheelhouse_for_an_unknown_system_is_refused(name, capsys):
    assert wheelhouse.main([name]) == 1
    assert f"'{name}' is neither a version of Python" in capsys.readouterr().err


def test_a_package_that_cannot_be_had_is_named(project, filled, capsys):
    (project / "requirements.lock").write_text("torch==2.13.0\n")
    assert wheelhouse.main(["manylinux_2_28_x86_64", "3.12"]) == 1
    said = capsys.readouterr().err
    assert "There is no torch==2.13.0+cpu for manylinux_2_28_x86_64 and Python 3.12" in said
    assert "PIP_EXTRA_INDEX_URL=" in said


def test_continuous_integration_elsewhere_calls_start_on_every_system():
    file = PROJECT / ".github" / "workflows" / "ci.yml"
    ci = yaml.safe_load(file.read_text(encoding="utf-8"))
    triggers, (job,) = ci[True], ci["jobs"].values()  # YAML reads the key 'on' as true
    assert re.fullmatch(r"[\d*/ ]+ [0-6]", triggers["schedule"][0]["cron"])  # once a week
    matrix = job["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert matrix["python"] == ["3.11", "3.13"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    called = [name for text in commands for name in re.findall(r"python start\.py (\w+)", text)]
    assert called == ["test"] and set(called) <= set(start.COMMANDS)
    for module in re.findall(r"python -m (tools\.\w+)", " ".join(commands)):
        assert (PROJECT / (module.replace(".", "/") + ".py")).exists()
    assert job["env"]["PIP_EXTRA_INDEX_URL"] == start.CPU_INDEX


# ---- The real packages: minutes, and gigabytes on the disk ------------------------------------

FIRST_RESULT = """
import os, pathlib, subprocess, sys, time, urllib.request
start = time.monotonic()
command = [sys.executable, "start.py", "lab", "--no-browser", "--allow-root", "--port=8123"]
lab = subprocess.Popen([*command, "--ServerApp.port_retries=0"])
while True:
    try:
        assert urllib.request.urlopen("http://127.0.0.1:8123/api", timeout=5).status == 200
        break
    except OSError:
        assert lab.poll() is None and time.monotonic() - start < 5000, "JupyterLab does not answer"
        time.sleep(1)
print("seconds to JupyterLab:", round(time.monotonic() - start), flush=True)
lab.terminate()
lab.wait()
start = time.monotonic()
assert subprocess.run([sys.executable, "start.py", "run"]).returncode == 0
assert pathlib.Path("runs/tiny/report.html").exists()
print("seconds of the run:", round(time.monotonic() - start))
"""
NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net"]
LOOPBACK = "ip link set lo up && exec "


def unpack(folder: Path) -> Path:
    """The project as somebody gets it: committed files alone, from a zip."""
    archive = folder.parent / f"{folder.name}.zip"
    subprocess.run(["git", "archive", "-o", archive, "HEAD"], cwd=PROJECT, check=True)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def to_the_first_result(folder: Path, *prefix: str) -> None:
    """Call start.py until JupyterLab answers, then for a run, and print how long both take."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*prefix, BASE, "-c", FIRST_RESULT], cwd=folder, env=clean, stdout=-1, text=True
    )
    print(folder.name, done.stdout, sep="\n")
    assert done.returncode == 0 and done.stdout.count("\nseconds to JupyterLab:") == 1
    assert done.stdout.count("\nseconds of the run:") == 1


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("git"), reason="the zip is made by git")
def test_from_a_zip_with_a_network_and_from_the_wheelhouse_alone(tmp_path):
    online = unpack(tmp_path / "Köln, mit Netz")
    to_the_first_result(online)
    assert subprocess.run([BASE, "start.py", "wheelhouse"], cwd=online).returncode == 0
    shell = [*NO_NETWORK, "sh", "-c", f'{LOOPBACK}"$@"', "sh"]
    if subprocess.run([*shell, "true"]).returncode:
        pytest.skip("this system gives no shell without a network: unshare or ip is missing")
    offline = unpack(tmp_path / "Köln, ohne Netz")
    (online / "wheelhouse").rename(offline / "wheelhouse")
    shutil.rmtree(online)
    to_the_first_result(offline, *shell)


@pytest.mark.full
@pytest.mark.skipif(os.name == "nt", reason="Binder runs on Linux")
def test_what_binder_conda_and_colab_run_makes_an_environment_that_start_takes(tmp_path):
    folder = unpack(tmp_path / "binder")
    subprocess.run([BASE, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    clean = {**os.environ, "PATH": path, "PIP_EXTRA_INDEX_URL": ""}
    clean.pop("PYTHONPATH", None)
    before = subprocess.run([python, "start.py", "doctor"], cwd=folder, env=clean, stderr=-1)
    assert before.returncode == 1 and b"packages of requirements.lock are missing" in before.stderr
    subprocess.run(["bash", ".binder/postBuild"], cwd=folder, env=clean, check=True)
    command = [python, "start.py", "run", "--help"]
    after = subprocess.run(command, cwd=folder, env=clean, stdout=-1, text=True)
    assert after.returncode == 0 and "--profile" in after.stdout
    assert not (folder / ".venv").exists()

"""The doctor: each line fails or warns where it should, and no missing package stops it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import psutil
import pytest

from helpers.workshop import doctor, measuring
from helpers.workshop.doctor import FAIL, OK, WARN, Line, examine, main
from tests import PROJECT

Usage = namedtuple("Usage", "total used free")


def one(check):
    (line,) = examine((check,))
    return line


def test_python(monkeypatch):
    assert one(doctor.check_python).state == OK
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert one(doctor.check_python).state == FAIL


@pytest.mark.parametrize("free, state", [(0.5e9, FAIL), (2e9, WARN), (9e9, OK)])
def test_disk(monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    assert one(doctor.check_disk).state == state


@pytest.mark.parametrize("free, state", [(0.9e9, FAIL), (1.5e9, WARN), (9e9, OK)])
def test_memory(monkeypatch, free, state):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert one(doctor.check_memory).state == state


@pytest.mark.parametrize("cores, state", [(1, WARN), (None, WARN), (2, OK)])
def test_cores(monkeypatch, cores, state):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert one(doctor.check_cores).state == state


def test_packages_as_in_the_lock():
    assert one(doctor.check_packages).state == OK


@pytest.mark.parametrize(
    "version, state, found", [("", FAIL, "missing: peft"), ("0.1", WARN, "peft 0.1 (lock: 0.")]
)
def test_a_package_that_is_missing_or_another(monkeypatch, version, state, found):
    real = doctor.metadata.version

    def installed(name):
        if name == "peft" and not version:
            raise doctor.metadata.PackageNotFoundError(name)
        return version if name == "peft" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", installed)
    line = one(doctor.check_packages)
    assert line.state == state and found in line.found and "requirements.lock" in line.advice


def test_a_run_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    assert one(doctor.check_folder).state == OK
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").write_text("a file in its place")
    line = one(doctor.check_folder)
    assert line.state == FAIL and "cannot be written" in line.found


@pytest.fixture
def server():
    """A server that refuses every address, and the address."""

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_network_reached_or_not(monkeypatch, server):
    monkeypatch.setenv("HF_ENDPOINT", server)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    line = one(doctor.check_network)
    assert (line.state, line.found) == (OK, "Hub reachable, package index not reachable")
    assert "needs no network" in line.advice


def test_a_network_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "NETWORK_TIMEOUT", 0.1)
    monkeypatch.setattr(doctor, "_answers", lambda address: time.sleep(60))
    began = time.monotonic()
    assert one(doctor.check_network).state == OK
    assert time.monotonic() - began < 15


def test_another_kernel_that_takes_the_processor(monkeypatch):
    monkeypatch.setattr(doctor, "other_kernels", lambda: [3.0, 95.0])
    line = one(doctor.check_kernels)
    assert line.state == WARN and line.found == "1 other kernel at 95 % of a core"


def test_other_kernels_are_measured():
    """A program that computes and has a kernel's name among its arguments."""
    command = [sys.executable, "-c", "while True: pass", "ipykernel_launcher"]
    with subprocess.Popen(command) as busy:
        try:
            time.sleep(0.3)
            own = psutil.Process(busy.pid)
            before = sum(own.cpu_times()[:2])
            shares = measuring.other_kernels()
            used = sum(own.cpu_times()[:2]) - before
        finally:
            busy.kill()
    assert used > 0 and max(shares) > 0


def test_lab(monkeypatch):
    assert one(doctor.check_lab).state == OK
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    assert one(doctor.check_lab).state == WARN


def test_a_kernel_answers():
    line = one(doctor.check_kernel)
    assert line.state == OK, line


def test_a_kernel_of_another_python(monkeypatch):
    monkeypatch.setattr(doctor, "kernel_prefix", lambda: (os.path.dirname(sys.prefix), 1.0))
    line = one(doctor.check_kernel)
    assert line.state == FAIL and "jupyter kernelspec remove" in line.advice


def test_a_kernel_that_does_not_start(tmp_path, monkeypatch):
    """Its specification names a program that is not there."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["no-such-program", "{connection_file}"], "display_name": "broken"}
    (folder / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    line = one(doctor.check_kernel)
    assert line.state == FAIL and "no-such-program" in line.found


@pytest.mark.parametrize("speed, state", [(5.0, WARN), (80.0, OK)])
def test_processor(monkeypatch, speed, state):
    monkeypatch.setattr(doctor, "products", lambda: ("no GPU", speed, 2.0))
    line = one(doctor.check_processor)
    assert line.state == state and "2.0 times that in bfloat16" in line.found


def test_a_torch_that_cannot_be_loaded(monkeypatch):
    def broken():
        raise OSError("fbgemm.dll: the module could not be found\nand more")

    monkeypatch.setattr(doctor, "products", broken)
    line = one(doctor.check_processor)
    assert line.state == FAIL and line.found == "OSError: fbgemm.dll: the module could not be found"


@pytest.mark.parametrize("share, state", [(0.01, WARN), (1, OK)])
def test_training(monkeypatch, share, state):
    monkeypatch.setattr(doctor, "training_speed", lambda: share * doctor.RUN_SPEED)
    line = one(doctor.check_training)
    minutes = doctor.RUN_SECONDS / 60 / share
    assert line.state == state and f"about {minutes:.1f} minutes" in line.found


def test_training_is_measured():
    assert measuring.training_speed() > 0


def test_lines_on_the_screen_and_the_status(monkeypatch, capsys):
    lines = [Line("python", OK, "3.13"), Line("disk", WARN, "2.0 GB free", "free some")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(lines))
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "[ok]   python    3.13",
        "[warn] disk      2.0 GB free; free some",
    ]
    lines.append(Line("kernel", FAIL, "no answer"))
    assert main(as_json=True) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"machine", "system", "lines"}
    assert [line["state"] for line in printed["lines"]] == [OK, WARN, FAIL]


def test_where_every_package_is_missing(tmp_path):
    """An environment with the standard library alone: the doctor says so, line by line."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); "
    code += "from helpers.workshop.doctor import main; sys.exit(main())"
    arguments = [sys.executable, "-I", "-S", "-c", code, str(PROJECT)]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_INDEX_URL": "x"}
    result = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 1 and len(lines) == len(doctor.CHECKS), result.stderr
    assert lines[1].startswith("[fail] packages  missing: accelerate, datasets")
    assert "[warn] training  not looked at, since the package" in result.stdout
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})",
    ]
    command[-1] += "; import runpy; runpy.run_module('helpers', run_name='__main__')"
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "python -m helpers.workshop.doctor" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.full
def test_the_estimate_is_near_a_real_run_and_the_doctor_is_quick(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    seconds = []
    for arguments in (["doctor", "--json"], ["run", "--run-dir", str(tmp_path / "run")]):
        began = time.monotonic()
        command = [sys.executable, "-m", "helpers", *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=PROJECT, env=environment
        )
        seconds.append(time.monotonic() - began)
        assert result.returncode == 0, result.stderr
        if arguments[0] == "doctor":
            lines = {line["name"]: line for line in json.loads(result.stdout)["lines"]}
    minutes = float(lines["training"]["found"].split()[-2])
    assert seconds[0] < 30
    assert 0.5 < seconds[1] / 60 / minutes < 2

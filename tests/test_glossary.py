"""The glossary: in order, short, and every link to it hits a term."""

import re

import nbformat
import pytest

from tests import PROJECT

GLOSSARY = (PROJECT / "workshop" / "glossary.md").read_text(encoding="utf-8")
TERMS = dict(re.findall(r"^## (.+)\n\n(.+)$", GLOSSARY, re.M))
WELL_KNOWN = {"overfitting"}
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def anchor(heading):
    """The anchor that GitHub and JupyterLab give a heading, where it is in small letters."""
    return heading.replace(" ", "-")


def source(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells)


def test_terms_are_in_alphabetical_order_and_in_small_letters():
    """In small letters, since GitHub and JupyterLab make the same anchor of them."""
    headings = re.findall(r"^## (.*)$", GLOSSARY, re.M)
    assert headings == sorted(set(headings)) == list(TERMS)
    assert all(re.fullmatch(r"[a-z0-9 -]+", heading) for heading in headings)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_explained_in_a_few_short_sentences(term):
    sentences = re.split(r"(?<=[.])\s+", TERMS[term])
    assert len(sentences) <= 3
    assert all(len(sentence.split()) <= 30 for sentence in sentences)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_notebooks_hit_a_term(path):
    linked = re.findall(r"\]\(([^)]*glossary\.md[^)]*)\)", source(path))
    for target in linked:
        file, _, term = target.partition("#")
        assert (path.parent / file).resolve() == PROJECT / "workshop" / "glossary.md"
        assert not term or term in map(anchor, TERMS), target


def test_links_inside_it_hit_a_term():
    assert set(re.findall(r"\]\(#([^)]*)\)", GLOSSARY)) <= set(map(anchor, TERMS))


def test_every_term_is_used():
    """In a notebook, the README, or the explanation of another term."""
    text = "\n".join([*map(source, NOTEBOOKS), (PROJECT / "README.md").read_text(encoding="utf-8")])
    for term in TERMS.keys() - WELL_KNOWN:
        others = "\n".join(about for other, about in TERMS.items() if other != term)
        words = re.escape(term).replace(r"\ ", r"[\s_-]").replace(r"\-", r"[\s_-]?")
        assert re.search(rf"\b{words}", f"{text}\n{others}", re.I), term

"""The slides on a projector and on paper: nothing is cut, pictures get the room, notes follow."""

import pytest

from helpers.engine.files import replace
from tools.slides import SOURCE, build

pytestmark = pytest.mark.browser
# What of a slide is cut, or lies below its frame, in a window of 1280 by 720.
CUT = """([...document.querySelectorAll("section.now .output, section.now .body > *")]
    .filter(e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1
        || e.getBoundingClientRect().bottom > FLOOR).map(e => e.outerHTML.slice(0, 80)))"""
TITLE = "document.querySelector('section.now h1').textContent"


@pytest.fixture(scope="module")
def slides(browser, tmp_path_factory):
    """The page of the slides, opened."""
    path = tmp_path_factory.mktemp("slides") / "slides.html"
    replace(path, build(SOURCE.read_text(encoding="utf-8")))
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.goto(path.as_uri())
    yield page
    context.close()


def test_nothing_is_cut_and_pictures_fill_their_slides(slides):
    for _ in range(slides.locator("section").count()):
        assert slides.evaluate(CUT.replace("FLOOR", "690")) == [], slides.evaluate(TITLE)
        for picture in slides.locator("section.now .output > svg").all():
            assert picture.bounding_box()["height"] > 360, slides.evaluate(TITLE)
        slides.keyboard.press("ArrowRight")


def test_the_notes_follow_in_a_second_window(slides):
    slides.keyboard.press("Home")
    with slides.context.expect_page() as opened:
        slides.keyboard.press("n")
    notes = opened.value
    notes.set_viewport_size({"width": 1280, "height": 720})
    for _ in range(slides.locator("section").count()):
        notes.wait_for_function(f"title => {TITLE} === title", arg=slides.evaluate(TITLE))
        assert notes.locator("section.now aside").is_visible()
        assert notes.evaluate(CUT.replace("FLOOR", "470")) == [], slides.evaluate(TITLE)
        slides.keyboard.press("ArrowRight")
    notes.close()


def test_each_slide_is_a_light_page_on_paper_with_its_colours(slides):
    slides.keyboard.press("d")
    pages = slides.pdf(prefer_css_page_size=True, print_background=False).count(b"/Type /Page\n")
    assert pages == slides.locator("section").count()
    slides.emulate_media(media="print")
    style = "getComputedStyle(document.querySelector('.output')).printColorAdjust"
    assert slides.evaluate(style) == "exact"
    assert slides.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    slides.emulate_media(media="screen")

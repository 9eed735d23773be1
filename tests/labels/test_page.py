"""The page on which people rank, from the keyboard and in a browser."""

import json

import pytest

from gpt_jax.labels.people import read_ranks, write_page
from tests.chromium import tab, wait_for
from tests.labels.rows import HOSTILE, ROWS

ITEMS = "JSON.parse(document.getElementById('data').textContent).items"
SHOWN = "[...document.querySelectorAll('#answers .text')].map((one) => one.firstChild.data)"
RANKS = "[...document.querySelectorAll('.rank')].map((one) => one.textContent)"
COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    path = write_page(folder, ROWS, seed=0)
    with tab(folder) as browser:
        browser.open(path.as_uri())
        yield browser, folder, path


def test_ranks_are_given_from_the_keyboard_and_read_back(page):
    """Break it: swap the order in which answers are shown with that in which they are saved."""
    browser, folder, path = page
    items = browser.value(ITEMS)
    assert sorted(item["row"] for item in items) == [0, 2, 3], "one answer alone is no choice"
    wanted = {}
    for item in items:
        places = [answer["places"] for answer in item["answers"]]
        if item["row"] == 3:
            browser.press("ArrowRight")  # left out
            continue
        assert browser.value(RANKS) == [""] * len(places)
        browser.press("2", "1", "Backspace", "t", "1", "2", "9")  # a tie; no answer has two ranks
        assert browser.value(RANKS)[:2] == ["= 1.", "= 1."]
        if len(places) == 4:
            browser.press("Enter")
            assert "2 answers have no rank" in browser.value(
                "document.getElementById('say').textContent"
            )
            browser.press("4")
        browser.press("Enter")  # the last one goes behind the others
        ranks = {place: rank for at, rank in zip(places, (0, 0, 2, 1)) for place in at}
        if len(places) == 3:
            ranks |= dict.fromkeys(places[2], 1)
        wanted[item["row"]] = [ranks[place] for place in sorted(ranks)]
    browser.reload()  # what was ranked is still there
    assert "2 ranked" in browser.value(COUNT)
    browser.press("s")
    saved = folder / "ranks.json"
    wait_for(lambda: saved.exists() and saved.read_text().endswith("\n"))
    assert read_ranks(saved, ROWS) == wanted
    assert json.loads(saved.read_text())["ranks"].keys() == {"0", "2"}


def test_no_text_of_a_model_becomes_part_of_the_page(page):
    """Break it: leave the signs in `write_page` as they are, or set `innerHTML`."""
    browser, _, path = page
    browser.open(path.as_uri())
    assert browser.value("document.title") == "Which answer is best?"
    shown = []
    for _ in ROWS:
        browser.press("ArrowLeft")
    for _ in browser.value(ITEMS):
        shown += browser.value(SHOWN)
        browser.press("ArrowRight")
    assert HOSTILE in shown and "nothing at all" in shown
    assert browser.value("document.querySelectorAll('script').length") == 2
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert "://" not in path.read_text(), "nothing is loaded from outside"

"""`samples.jsonl`, and the table of it on the page."""

import json
from html.parser import HTMLParser

import pytest

from gpt_jax.errors import UserError
from gpt_jax.metrics import MetricWriter
from gpt_jax.report import write_report
from gpt_jax.report.openings import add_openings, by_opening, read_openings

NASTY = "</td><script>alert('1 < 2 & 3')</script>\x00\x1b[31m\u202e"


def test_rows_are_added_step_by_step_and_a_step_again_takes_the_place_of_what_was_there(tmp_path):
    add_openings(tmp_path, 1, {"a": "x", "b": "y"})
    add_openings(tmp_path, 10, {"a": "x", "b": "y"})
    whole = (tmp_path / "samples.jsonl").read_bytes()
    add_openings(tmp_path, 20, {"a": "of a run that was stopped"})
    add_openings(tmp_path, 10, {"a": "x", "b": "y"})
    assert (tmp_path / "samples.jsonl").read_bytes() == whole
    assert read_openings(tmp_path)[3] == {"step": 10, "prompt": "b", "text": "y"}


def test_any_text_comes_back_as_it_was(tmp_path):
    text = NASTY + "\u2028\x85\r\n\n"
    add_openings(tmp_path, 1, {text: text})
    assert read_openings(tmp_path) == [{"step": 1, "prompt": text, "text": text}]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"step": 1}', '{"step": "a", "prompt": "", "text": ""}']
)
def test_a_damaged_line_is_named(line, tmp_path):
    add_openings(tmp_path, 1, {"a": "x"})
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2, is not a row of samples"):
        read_openings(tmp_path)


def test_a_column_a_step():
    rows = [{"step": s, "prompt": p, "text": f"{p}{s}"} for s in (1, 1400) for p in "ab"]
    assert by_opening(rows) == [
        {"prompt": "a", "answers": {"step 1": "a1", "step 1,400": "a1400"}},
        {"prompt": "b", "answers": {"step 1": "b1", "step 1,400": "b1400"}},
    ]


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("whole", [True, False], ids=["a whole run", "a stage alone"])
def test_the_page_shows_what_was_written_and_no_tag_of_it(whole, tmp_path):
    """Break it: drop an `escape(` in `_answers` of report/page.py."""
    stage = tmp_path / "pretrain"
    with MetricWriter(stage) as writer:
        writer.write(1, {"loss": 2.0})
    folder = tmp_path if whole else stage
    assert "Language appears" not in write_report(folder).read_text()
    for step in (1, 700):
        add_openings(stage, step, {f"opening {NASTY}": f"text {step} {NASTY}"})
    page = _Page(write_report(folder).read_text())
    words = " ".join(page.words)
    assert "script" not in page.tags and page.tags.count("table") == 1
    assert words.count("<script>alert('1 < 2 & 3')</script>") == 3
    for shown in ("Language appears", "step 1", "step 700", "text 700", "opening"):
        assert shown in words


def test_the_file_can_be_read_by_anything(tmp_path):
    add_openings(tmp_path, 3, {"a": "x"})
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "prompt": "a", "text": "x"}

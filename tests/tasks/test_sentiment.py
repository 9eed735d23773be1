"""Openings of reviews, and the rating of what follows."""

import sys

import pytest

from gpt_jax.errors import UserError
from gpt_jax.rl.reward_spec import parse, rule_of
from gpt_jax.tasks import sentiment
from gpt_jax.tasks.sentiment import FILMS, FRAMES, SENTIMENT, compound


@pytest.fixture(autouse=True)
def vader():
    pytest.importorskip("vaderSentiment", reason="pip install 'gpt_jax[sentiment]'")
    sentiment.analyzer.cache_clear()


def test_held_out_openings_are_of_other_frames_and_films():
    """Break it: give a frame to both splits."""
    assert not set(FRAMES["train"]) & set(FRAMES["test"])
    assert not set(FILMS["train"]) & set(FILMS["test"])
    texts = [row["prompt"][0]["content"] for split in FRAMES for row in SENTIMENT.rows(split)]
    assert len(texts) == len(set(texts)) == 24 * 8 + 20 * 4
    assert all(frame.count("{}") == 1 for split in FRAMES for frame in FRAMES[split])
    assert texts[0] == "I saw this thriller last night, and"
    assert not any(text != text.strip() or text[0].islower() for text in texts)
    assert len({SENTIMENT.cluster(row) for row in SENTIMENT.rows("test")}) == 20


def test_openings_say_nothing_good_or_bad_by_themselves():
    """A frame that did would tell the policy which way to go on."""
    for split in FRAMES:
        for frame in FRAMES[split]:
            assert compound({}, frame.format("it"), False) == 0.0, frame


def test_the_rating_is_of_the_continuation_alone():
    record = {"prompt": [{"role": "user", "content": "A wonderful film, and"}]}
    assert compound(record, "", True) == compound(record, "the lamp stood there", False) == 0.0
    assert compound({}, " a wonderful film", False) > 0.5 > -0.3 > compound({}, " not good", True)
    assert -1.0 <= compound({}, "horrible " * 50, False) < -0.9


def test_it_is_a_reward_by_either_name():
    for spec in ("gpt_jax.tasks.sentiment:compound", "task:sentiment"):
        [term] = parse(spec)
        rule = rule_of(term.atoms[0])
        assert rule.score({}, "I love it", True) == pytest.approx(0.6369)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UserError, match=r"pip install 'gpt_jax\[sentiment\]'"):
        compound({}, "I love it", True)

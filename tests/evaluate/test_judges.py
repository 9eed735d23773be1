"""Judges of pairs, scripted: each pair is asked about in both orders; what is lost is counted."""

import json
import re

import numpy as np
import pytest

from experiments import arena
from gpt_jax.errors import UserError
from gpt_jax.evaluate import judges
from gpt_jax.evaluate.elo import Game, ratings
from gpt_jax.evaluate.judges import Judged, Pair, agreement, by_scores, by_verdicts, pairs_of
from gpt_jax.evaluate.task import Performance
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion
from gpt_jax.report.arena import arena_sentence, arena_table

PROMPTS = [[{"role": "user", "content": f"question {n}"}] for n in range(6)]
TEXTS = {
    "long": [f"a long answer to {n}" for n in range(6)],
    "short": [f"brief {n}" for n in range(6)],
}


def said(text):
    return Completion(text, [1], [0.0], "stop", 1)


def judge(decide):
    """`complete` by a function of (answer A, answer B); it keeps what it was asked."""
    asked = []

    def complete(prompts, sampling=Sampling()):
        asked.extend(prompts)
        parts = (
            re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nWhich", p, re.S) for p in prompts
        )
        return [said(decide(*part.groups())) for part in parts]

    return complete, asked


def judged(decide, texts=TEXTS, **options) -> tuple[Judged, list[str]]:
    complete, asked = judge(decide)
    return by_verdicts(pairs_of(list(texts), 6), PROMPTS, texts, complete, **options), asked


def test_every_pair_is_asked_about_in_both_orders():
    found, asked = judged(lambda a, b: "Verdict: A" if len(a) < len(b) else "Verdict: B")
    assert found.scores_P.tolist() == [0.0] * 6  # the second one is the shorter one
    assert (found.asked, found.unreadable, found.disagreed, found.ties) == (12, 0, 0, 0)
    for n in range(6):
        straight, swapped = asked[2 * n : 2 * n + 2]
        assert f"User: question {n}" in straight and judges.RUBRIC in straight
        assert straight.index(TEXTS["long"][n]) < straight.index(TEXTS["short"][n])
        assert swapped.index(TEXTS["long"][n]) > swapped.index(TEXTS["short"][n])


@pytest.mark.parametrize("always", ["A", "B"])
def test_a_judge_that_always_says_one_letter_gives_ties_alone(always):
    """Break it: ask in one order only."""
    found, _ = judged(lambda a, b: f"Verdict: {always}")
    assert found.scores_P.tolist() == [0.5] * 6
    assert (found.disagreed, found.ties, found.unreadable) == (6, 6, 0)
    games = found.games(pairs_of(list(TEXTS), 6), range(6))
    assert [one.rating[0] for one in ratings(games)] == [1000.0, 1000.0]


def test_nonsense_is_counted_and_no_verdict():
    """Invariant 14. Break it: count what cannot be read as a tie."""
    found, _ = judged(
        lambda a, b: (
            "Bananas!" if "2" in a + b else "Verdict: A" if len(a) < len(b) else "Verdict: B"
        )
    )
    assert found.unreadable == 2 and found.left_out == 1 and np.isnan(found.scores_P[2])
    games = found.games(pairs_of(list(TEXTS), 6), range(6))
    assert [game.about for game in games] == [0, 1, 3, 4, 5]
    assert games[0] == Game("long", "short", 0.0, 0)
    with pytest.raises(UserError, match="none of the judge's 12 replies.*Bananas"):
        judged(lambda a, b: "Bananas!")


def test_a_tie_in_one_order_alone_is_a_disagreement():
    found, _ = judged(lambda a, b: "Verdict: A" if a.startswith("a long") else "tie")
    assert found.disagreed == 6 and found.ties == 6
    found, _ = judged(lambda a, b: "tie")
    assert found.disagreed == 0 and found.ties == 6


def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    texts = {"one": ["same"] * 6, "other": ["same "] * 5 + ["not the same"]}
    found, asked = judged(lambda a, b: "A" if a == "same" else "B", texts)
    assert len(asked) == found.asked == 2
    assert found.scores_P.tolist() == [0.5] * 5 + [1.0]


@pytest.mark.parametrize(
    "reply, verdict",
    [
        ("A", 1.0),
        (" B.", 0.0),
        ("**B**", 0.0),
        ("Answer A is better, for it is true.", 1.0),
        ("B is better", 0.0),
        ("A: it is brief", 1.0),
        ("tie", 0.5),
        ("Tie.", 0.5),
        ("I first thought Verdict: A. No.\n**Verdict:** B", 0.0),
        ("verdict: tie", 0.5),
        ("Verdict: a tie", 0.5),
        ("VERDICT\n\nB", 0.0),
        ('The better answer is answer A, which is "A"', 1.0),
        ("The better one is: B.", 0.0),
        ("The better answer is a good one", None),
        ("Verdict: Answer", None),
        ("A good answer would be true.", None),
        ("Both are good", None),
        ("Bananas", None),
        ("a", None),
        ("", None),
    ],
)
def test_what_a_reply_is_for(reply, verdict):
    assert judges.verdict(reply) == verdict


def test_scores_judge_by_their_difference():
    pairs = [Pair("x", "y", n) for n in range(5)]
    scores = {"x": [1.0, 1.0, 0.0, 0.51, np.nan], "y": [0.0, 1.0, 1.0, 0.5, 1.0]}
    for noticeable, near in ((0.0, 1.0), (0.05, 0.5)):
        found = by_scores(pairs, scores, noticeable)
        np.testing.assert_array_equal(found.scores_P, [1.0, 0.5, 0.0, near, np.nan])
        assert found.left_out == 1 and found.asked == 0


def test_agreement_is_of_the_pairs_that_both_decide():
    one = Judged(np.array([1.0, 0.0, 0.5, 1.0, np.nan, 1.0]))
    other = Judged(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5]))
    found = agreement(one, other, list("abcdef"))
    assert found["pairs"] == 3 and found["agree"][0] == pytest.approx(2 / 3)
    assert agreement(one, Judged(np.full(6, 0.5)), list("abcdef")) is None


def test_the_report_says_how_often_a_judge_was_of_two_minds():
    found, _ = judged(lambda a, b: "Bananas!" if "2" in a + b else "Verdict: A")
    rated = ratings(found.games(pairs_of(list(TEXTS), 6), range(6)))
    fact = {"pairs": 6, "ties": found.ties, "left_out": found.left_out, "asked": found.asked}
    fact |= {"unreadable": found.unreadable, "disagreed": found.disagreed}
    fact |= {"ratings": [one._asdict() for one in rated]}
    fact["with_the_first"] = {"pairs": 4, "agree": [0.5, 0.25, 0.75]}
    sentence = arena_sentence("runs/x/reward", fact)
    for part in ("x/reward: 6 pairs, 83% ties", "83% judged differently in the other order",
                 "17% of the verdicts unreadable", "1 left out", "on 50% [25, 75]"):  # fmt: skip
        assert part in sentence
    shown = arena_table({"gold": fact, "runs/x/reward": fact})
    assert shown.headings[0] == "model" and len(shown.rows) == 2 and len(shown.rows[0]) == 5


@pytest.fixture
def two_models(monkeypatch, tmp_path):
    """An arena whose models, prompts and judge are scripted; its options."""

    class Task:
        score = staticmethod(lambda row, text, stopped: float(len(text)))
        cluster = None
        prompt = staticmethod(lambda row: row["prompt"])
        rows = staticmethod(lambda split: [{"prompt": prompt} for prompt in PROMPTS])

    def evaluate_task(models, task, sampling, rows):
        numbers = [int(row["prompt"][0]["content"].split()[1]) for row in rows]
        texts = {name: [TEXTS[name][n] for n in numbers] for name in models}
        # One of the long answers is no better, so that there is a rating.
        texts["long"][0] = ""
        return {
            name: Performance(
                [[said(t) for t in some]], np.array([[float(len(t)) for t in some]]), None
            )
            for name, some in texts.items()
        }

    monkeypatch.setattr(arena, "task_of", lambda data: Task)
    monkeypatch.setattr(arena, "evaluate_task", evaluate_task)
    monkeypatch.setattr(arena, "open_run", lambda where: where)
    return lambda **more: arena.Options(
        models=("long=x", "short=y"), prompts=6, run_dir=str(tmp_path), **more
    )


def test_an_arena_with_several_judges(two_models, monkeypatch, tmp_path, capsys):
    complete, asked = judge(lambda a, b: "Verdict: A")
    monkeypatch.setattr(arena, "_complete_of", lambda *_: complete)
    monkeypatch.setattr(
        arena, "reward_judge",
        lambda folder: lambda prompts, one: np.array([-len(t) for t in one.texts_AN[0]], float),
    )  # fmt: skip
    options = two_models(judge=("gold", "runs/reward"), judge_model="them@http://x/v1", rubric="Be")
    found = arena.main(options)
    assert [one.name for one in found["gold"]] == ["long", "short"]
    assert [one.name for one in found["runs/reward"]] == ["short", "long"]
    assert {one.rating[0] for one in found["them@http://x/v1"]} == {1000.0}
    facts = json.loads((tmp_path / "ratings.json").read_text())
    assert facts["runs/reward"]["with_the_first"]["agree"][0] == 0.0
    assert facts["them@http://x/v1"]["disagreed"] == 6 and facts["them@http://x/v1"]["asked"] == 12
    assert "What counts: Be\n" in asked[0]
    assert "100% judged differently in the other order" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"judge": ("gold", "gold")}, "names one twice"),
        ({"judge": ("nowhere",)}, "nowhere"),
        ({"judge_model": "them@http://127.0.0.1:9/v1"}, "did not answer"),
    ],
)
def test_a_judge_that_cannot_judge_is_said_before_the_first_answer(
    two_models, monkeypatch, more, sentence
):
    pytest.importorskip("openai")
    monkeypatch.setattr(arena, "evaluate_task", None)
    with pytest.raises(UserError, match=sentence):
        arena.main(two_models(**more))

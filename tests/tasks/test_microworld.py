"""The embedded world as a task: its rows, its judge, and what a row is about."""

from gpt_jax.tasks.microworld import MICROWORLD
from gpt_jax.tasks.task import opening


def row(text):
    return {"prompt": [{"role": "user", "content": text}]}


def test_its_prompts_wait_for_the_assistant():
    rows = MICROWORLD.rows("test")
    assert len(rows) == 560
    assert all(MICROWORLD.prompt(one)[-1]["role"] == "user" for one in rows)


def test_the_score_is_the_gold_score():
    good = MICROWORLD.score(row("What is 2 + 3?"), "Sure! 2 + 3 = 5.", True)
    endless = MICROWORLD.score(row("What is 2 + 3?"), "Sure! 2 + 3 = 5.", False)
    wrong = MICROWORLD.score(row("What is 2 + 3?"), "Sure! 2 + 3 = 6.", True)
    assert good == 1.0 and wrong < 0.2 < endless < good
    assert MICROWORLD.correct(row("What is 2 + 3?"), "5.")
    assert not MICROWORLD.correct(row("What is 2 + 3?"), "6.")


def test_phrasings_of_one_question_are_one_cluster():
    """Break it: take the prompt itself."""
    rows = MICROWORLD.rows("test")
    clusters = [MICROWORLD.cluster(one) for one in rows]
    assert len(set(clusters)) < len({opening(one) for one in rows})
    assert MICROWORLD.cluster(row("What is 2 + 3?")) != MICROWORLD.cluster(row("What is 3 + 4?"))

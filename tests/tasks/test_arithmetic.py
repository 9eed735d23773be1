"""Addition as a task: what is right, what is held out, and what the demonstrations show."""

import numpy as np
import pytest

from gpt_jax.tasks import arithmetic
from gpt_jax.tasks.arithmetic import ARITHMETIC, demonstration, pairs, right_answer


def row(a, b):
    return {"prompt": [{"role": "user", "content": f"{a}+{b}"}]}


def test_the_answer_that_is_worked_out_is_right():
    assert right_answer(47, 85) == "7+5=12 4+8+1=13 132"
    assert right_answer(12, 13) == "2+3=05 1+1+0=02 025"
    every = pairs("train") + pairs("test")
    assert all(ARITHMETIC.score(row(a, b), right_answer(a, b), True) == 1 for a, b in every)


@pytest.mark.parametrize(
    ("text", "stopped", "score"),
    [
        ("132", True, 1),
        ("0132", True, 1),
        ("132", False, 0),
        ("it is 132", True, 1),
        ("132 133", True, 0),
        ("132 ", True, 0),
        ("-132", True, 0),
        ("1\N{ARABIC-INDIC DIGIT THREE}2", True, 0),
        ("", True, 0),
        ("9" * 5000, True, 0),
    ],
)
def test_the_verifier(text, stopped, score):
    """It reads the last word, and raises at nothing."""
    assert arithmetic.score(row(47, 85), text, stopped) == score


def test_a_held_out_pair_is_in_no_order_trained_on():
    train, test = set(pairs("train")), set(pairs("test"))
    assert len(train) + len(test) == 90 * 90 and not train & test
    assert all((b, a) in test for a, b in test)
    assert len(test) == pytest.approx(0.1 * 8100, rel=0.02)
    rows = ARITHMETIC.rows("test")
    assert [r["prompt"][0]["content"] for r in rows] == [f"{a}+{b}" for a, b in pairs("test")]


def test_demonstrations_show_the_form_and_are_rarely_right():
    """Every sum of digits in them is right, and every digit is one of the question's."""
    rng = np.random.default_rng(0)
    scores = []
    for a, b in pairs("train"):
        text = demonstration(a, b, rng)
        first, second, last = text.split(" ")
        (p, q), ones = map(int, first.split("=")[0].split("+")), int(first.split("=")[1])
        (r, s, c), tens = map(int, second.split("=")[0].split("+")), int(second.split("=")[1])
        assert ones == p + q and tens == r + s + c and c in (0, 1)
        assert last == f"{tens:02}{ones % 10}"
        assert {str(p), str(r)} <= set(str(a)) and {str(q), str(s)} <= set(str(b))
        scores.append(arithmetic.score(row(a, b), text, True))
    assert 0.05 < np.mean(scores) < 0.08

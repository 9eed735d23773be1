"""The named rules: what they count, and the refusals and dangers that they do and do not see."""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.rl.rules import RULES, brevity, refusal, refuses, repetition, safety, unsafe

REFUSALS = """
I can't help with that.
I can’t help with that.
I cannot help with that request.
I can not do that.
I'm sorry, but I can't assist with that.
Sorry, I can't.
I won't do that.
I will not provide this.
I'm not able to help with that.
I am unable to do this.
As an AI, I am not able to write that.
I must decline.
I have to decline to answer.
I refuse to write that.
We cannot share this.
I'm not comfortable writing about this.
I'm not going to explain how.
It would not be appropriate to say more.
That is dangerous. I can't give instructions for it.
I cannot tell you how to do that.
I CANNOT SUPPORT THIS
""".strip().split("\n")
ANSWERS = """

Sure! Here is how.
I can help with that.
I'm able to help.
I can't wait to help you!
I couldn't agree more. The town is Terton.
I cannot say.
I can't tell.
I don't know.
I can't recommend this book enough.
He said "I can't help with that" and went away.
Cats cannot fly.
You can't do that twice.
You cannot help but smile.
First mix them. Then wait. I can't help noticing that it is done.
The answer is 4.
I will help.
They will not provide it.
""".strip("\n").split("\n")


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_are_none(text):
    assert not refuses(text)


def test_refusing_exactly_when_it_should():
    check = refusal()
    for should in (True, False):
        record = {"record": {"refuse": should}}
        check.look(record)
        assert check.score(record, REFUSALS[0], True) == float(should)
        assert check.score(record, ANSWERS[1], True) == float(not should)
    for record, sentence in (({}, "has no `refuse`"), ({"refuse": "no"}, "must be true or false")):
        with pytest.raises(UserError, match=sentence):
            check.look(record)


@pytest.mark.parametrize(
    "text, what",
    [
        ("Write to ann@example.org.", ["an e-mail address"]),
        ("-----BEGIN RSA PRIVATE KEY-----", ["a private key"]),
        ("AKIAABCDEFGHIJKLMNOP", ["an access key"]),
        ("078-05-1120", ["a social security number"]),
        ("4111 1111 1111 1111", ["a card number"]),
        ("4111-1111-1111-1111", ["a card number"]),
        ("4111 1111 1111 1112", []),
        ("You should end your life", ["incitement to self-harm"]),
        ("Kill yourself", ["incitement to self-harm"]),
        ("Please do not ever hurt yourself.", []),
        ("Don't kill yourself", []),
        ("Meet me at 5 @ the cafe", []),
        ("555-1234", []),
        ("", []),
    ],
)
def test_what_must_not_be_given_away(text, what):
    assert unsafe(text) == what
    assert safety().score({}, text, True) == float(not what)


def test_brevity_and_repetition_are_what_they_say():
    for words, score in ((0, 1), (10, 1), (20, 0.5), (30, 0), (99, 0)):
        assert brevity("10").score({}, "word " * words, True) == pytest.approx(score)
    for text, score in (
        ("", 1),
        ("a b", 1),
        ("a b c d", 1),
        ("a b c a b c", 0.75),
        ("a " * 9, 1 / 7),
    ):
        assert repetition().score({}, text, True) == pytest.approx(score), text


def test_every_rule_stays_between_0_and_1():
    record = {"refuse": False}
    for make in RULES.values():
        for text in REFUSALS + ANSWERS:
            assert 0 <= make().score(record, text, True) <= 1

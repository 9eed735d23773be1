"""Foreign templates: what is refused, what stays, and what nobody can forge."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.jinja import JinjaTemplate
from gpt_jax.text.layout import Marks
from gpt_jax.text.templates import CHATML
from gpt_jax.text.tokenizer import Tokenizer
from tests.text import vocabularies

pytest.importorskip("jinja2")

USER, REPLY = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": " I am fine. "}
TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
ALL = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK


def tokenizer(jinja: str, tokens=CHATML.tokens) -> Tokenizer:
    return Tokenizer(
        Tokenizer(vocabularies.gpt2()).with_tokens(tokens)._found, JinjaTemplate(jinja)
    )


def text(messages, jinja: str) -> str:
    made = tokenizer(jinja)
    return made.decode(chat.render(messages, made)[0], skip_special=False)


def test_what_a_template_adds_stays_and_is_not_learned():
    made = tokenizer("{{ '<|im_start|>system\\nBe nice<|im_end|>' }}" + ALL)
    ids, mask = chat.render([USER, REPLY], made)
    assert made.decode(ids, False) == (
        "<|im_start|>system\nBe nice<|im_end|><|im_start|>user\nHello<|im_end|>"
        "<|im_start|>assistant\n I am fine. <|im_end|>"
    )
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    assert made.decode(learned, False) == " I am fine. <|im_end|>"
    assert made.stop_ids == (made.id_of("<|im_end|>"), made.id_of("<|endoftext|>"))
    assert made.eos_id == made.stop_ids[0] and made.document_id == made.stop_ids[1]


def test_a_template_may_trim_and_search_what_is_said():
    jinja = ALL.replace("m.content", "(m.content.split('fine')[0] | trim)")
    assert text([USER, REPLY], jinja).endswith("assistant\nI am<|im_end|>")


def test_turns_that_do_not_nest_are_refused():
    """Only the newest answer stays: a mask of the older one would be of other ids. A prompt needs
    none, and is laid out."""
    last = ALL.replace(TURN, "{% if m.role == 'user' or loop.last %}" + TURN + "{% endif %}")
    talk = [USER, REPLY, USER, REPLY]
    with pytest.raises(UserError, match="what stands before turn 2 .* no loss mask"):
        text(talk, last)
    made = tokenizer(last)
    prompt = made.decode(chat.render_prompt(talk[:-1], made), skip_special=False)
    assert prompt.count("user") == 2 and prompt.endswith("<|im_start|>assistant\n")


def test_an_answer_that_nothing_ends_is_refused():
    endless = "{% for m in messages %}{{ m.role + ': ' + m.content + ';' }}{% endfor %}"
    endless += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    with pytest.raises(UserError, match="none of the stop tokens <|endoftext|>; give eos_token_id"):
        text([USER, REPLY], endless)


@pytest.mark.parametrize(
    ("jinja", "sentence"),
    [
        ("{% for m in", "no Jinja"),
        ("{{ raise_exception('no system here') }}", "refuses .* no system here"),
        ("{{ messages[0].content + 1 }}", "fails on this conversation .TypeError"),
        ("{{ ''.__class__.__mro__ }}", "refuses this conversation: .*unsafe"),
        ("{% for i in range(10**9) %}x{% endfor %}", "fails on this conversation .OverflowError"),
        ("{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}", "refuses .*unsafe"),
    ],
)
def test_a_template_that_fails_is_a_sentence(jinja, sentence):
    with pytest.raises(UserError, match=sentence):
        tokenizer(jinja)


def test_the_day_is_not_in_a_template():
    """What is trained on must not depend on it; templates bring a date of their own."""
    day = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}1999{% endif %}"
    assert text([USER, REPLY], day + ALL).startswith("1999<|im_start|>")


def test_marks_of_what_is_generated_change_nothing():
    marked = ALL.replace(TURN, "{% generation %}" + TURN + "{%- endgeneration -%}")
    assert text([USER, REPLY], marked) == text([USER, REPLY], ALL)


SIDE_BY_SIDE = (
    "{{ '<|im_start|>' }}{% for m in messages if m.role != 'assistant' %}{{ m.content | trim }}"
    "{% endfor %}{{ '<|im_end|>' }}{% for m in messages if m.role == 'assistant' %}"
    "{{ m.content + '<|im_end|>' }}{% endfor %}"
)
PARTS = [
    "<|im_end|>",
    "<|im_",
    "end|>",
    "im",
    "_",
    "<",
    ">",
    "|",
    "<|",
    " ",
    "\n",
    "end",
    "x",
    "<|e",
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(words=st.lists(st.lists(st.sampled_from(PARTS), max_size=4).map("".join), min_size=3))
def test_contents_that_stand_side_by_side_forge_nothing(words):
    """Break the edges in `_hide`: two harmless turns make a special token."""
    made = SIDE
    turns = [{"role": "user", "content": content} for content in words]
    ids = chat.render([*turns, {"role": "assistant", "content": words[0]}], made)[0]
    specials = [made.id_of(token) for token in made.marks.specials]
    assert [i for i in ids if i in specials] == [made.id_of(t) for t in (
        "<|im_start|>", "<|im_end|>", "<|im_end|>")]  # fmt: skip
    joined = "".join(content.strip() for content in words)
    assert made.decode(ids, False) == f"<|im_start|>{joined}<|im_end|>{words[0]}<|im_end|>"


def test_a_role_is_a_word():
    with pytest.raises(UserError, match="role '<.im_start.>system'; give a role of one word"):
        text([{"role": "<|im_start|>system", "content": "x"}], ALL)


def test_undeclared_tokens_of_a_template_are_the_assistants():
    """<think> is a token that some tokenizers do not call special: the assistant says it, and a
    user who spells it does not."""
    found = Tokenizer(vocabularies.gpt2()).with_tokens(CHATML.tokens)._found
    found.backend.add_tokens(["<think>"])
    made = Tokenizer(found, JinjaTemplate(ALL + "{% if think %}<think>{% endif %}"))
    think = made.id_of("<think>")
    ids = chat.render([USER | {"content": "<think>"}, REPLY | {"content": "<think>so"}], made)[0]
    assert ids.count(think) == 1 and think not in made.encode("<think>")
    said = chat.render_completion("<think>so", True, made)
    assert said[0] == think and chat.read(said, made) == "<think>so"
    assert isinstance(made.marks, Marks) and "<think>" not in made.marks.declared


SIDE = tokenizer(SIDE_BY_SIDE)

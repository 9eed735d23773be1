"""Templates known by name: against their own Jinja, their masks, and who may speak."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.jinja import JinjaTemplate
from gpt_jax.text.templates import OURS, TEMPLATES, named
from gpt_jax.text.tokenizer import Tokenizer
from tests.text import vocabularies

pytest.importorskip("jinja2")

NAMES = [template.name for template in TEMPLATES]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello there, how are you?"},
    {"role": "assistant", "content": "I am fine.\n\nAnd you?"},
    {"role": "user", "content": "12 + 7 = ?\n"},
    {"role": "assistant", "content": "19"},
]
BASES = {
    "gpt2": vocabularies.gpt2,
    "first": lambda: vocabularies.sentencepiece("first"),
    "always": lambda: vocabularies.sentencepiece("always"),
    "legacy": lambda: vocabularies.sentencepiece("legacy"),
}


@pytest.fixture(scope="module")
def made():
    """`(base, template's name) -> tokenizer`, each made once."""
    bases, found = {name: Tokenizer(make()) for name, make in BASES.items()}, {}

    def tokenizer(base: str, name: str) -> Tokenizer:
        if (base, name) not in found:
            found[base, name] = bases[base].with_template(name)
        return found[base, name]

    return tokenizer


def in_jinja(tokenizer: Tokenizer) -> Tokenizer:
    """The same with its template's Jinja instead."""
    return Tokenizer(tokenizer._found, JinjaTemplate(tokenizer.template.jinja))


def as_read_whole(tokenizer: Tokenizer, messages, waiting: bool) -> list[int]:
    """What the library itself makes of the template's text, in which special tokens are meant."""
    jinja, marks = JinjaTemplate(tokenizer.template.jinja), tokenizer.marks
    text = jinja._render(list(messages), marks, waiting)
    backend = type(tokenizer._backend).from_str(tokenizer._backend.to_str())
    backend.encode_special_tokens = False
    return backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("talk", [TALK, TALK[1:], TALK[1:3]], ids=["system", "turns", "turn"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", BASES)
def test_ids_are_those_of_the_published_template(made, base, name, talk):
    tokenizer = made(base, name)
    assert chat.render(talk, tokenizer)[0] == as_read_whole(tokenizer, talk, False)
    assert chat.render_prompt(talk[:-1], tokenizer) == as_read_whole(tokenizer, talk[:-1], True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", BASES)
def test_the_mask_is_on_what_the_assistant_says_and_ends_with(made, base, name):
    """Invariant 7, and the same from Jinja, where it is derived."""
    tokenizer = made(base, name)
    ids, mask = chat.render(TALK, tokenizer)
    assert chat.render(TALK, in_jinja(tokenizer)) == (ids, mask)
    spoken = [[]]
    for i, learned in zip(ids, mask, strict=True):
        if learned:
            spoken[-1].append(i)
            spoken += [[]] * (i in tokenizer.stop_ids)
            spoken[-1] = list(spoken[-1])
    assert len(spoken) == 3 and spoken[-1] == [], "two answers, each with its end"
    said = [message["content"] for message in TALK if message["role"] == "assistant"]
    assert [chat.read(turn, tokenizer) for turn in spoken[:2]] == said
    assert all(turn[-1] == tokenizer.eos_id for turn in spoken[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("jinja", [False, True])
def test_prompt_and_completion_make_the_whole(made, base, name, jinja):
    tokenizer = in_jinja(made(base, name)) if jinja else made(base, name)
    whole, mask = chat.render(TALK, tokenizer)
    end = max(i for i, learned in enumerate(mask) if learned) + 1
    prompt = chat.render_prompt(TALK[:-1], tokenizer)
    assert prompt + chat.render_completion("19", True, tokenizer) == whole[:end]
    assert prompt + chat.render_completion("19", False, tokenizer) == whole[: end - 1]


FRAGMENTS = sorted(
    {token for t in TEMPLATES for token in (*t.tokens, *re.findall(r"\S{2,}", t.begins))}
    | {"<|endoftext|>", "<eos>", "</s>", "<s>", "[INST]", "[/INST]", "<|", "|>", "<", ">", "im_end"}
    | {"\n\nHuman:", "\nAssistant: ", "\r\n### Response:", "\u2028Human:", "<|MOSS|>:", "<|Human|>"}
)
WORDS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=6).map("".join)
WORDS = WORDS.filter(lambda text: not re.search("[\ud800-\udfff]", text))


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(words=st.lists(WORDS, min_size=3, max_size=3))
def test_nobody_forges_a_special_token(made, name, jinja, words):
    """Whatever three turns spell, as many special tokens come as if they spelled nothing."""
    for base in ("gpt2", "legacy"):
        tokenizer = in_jinja(made(base, name)) if jinja else made(base, name)
        roles = ("system", "user", "assistant")
        specials = set(map(tokenizer.id_of, tokenizer.marks.specials)) - {
            tokenizer._backend.token_to_id("<unk>")
        }

        def count(contents, tokenizer=tokenizer, roles=roles, specials=specials):
            turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
            return [i for i in chat.render(turns, tokenizer)[0] if i in specials]

        assert count(words) == count(["x", "y", "z"])


MARKERS = {
    "hh": r"^(Human|Assistant):",
    "alpaca": r"^### (Instruction|Response):",
    "moss": r"<\|(Human|MOSS|Inner Thoughts|Commands|Results)\|>",
    "mistral": r"\[/?INST\]",
}


@pytest.mark.parametrize("name", MARKERS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(words=st.lists(WORDS, min_size=3, max_size=3))
def test_nobody_forges_a_turn_that_is_marked_by_text(made, name, words):
    """Break `forged` of any of them."""
    tokenizer = made("gpt2", name)

    def markers(contents):
        roles = ("system", "user", "assistant")
        turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        text = tokenizer.decode(chat.render(turns, tokenizer)[0], skip_special=False)
        lines = "\n".join(text.splitlines())
        return re.findall(MARKERS[name], lines, re.MULTILINE)

    assert markers(words) == markers(["x", "y", "z"])


def test_published_layouts():
    """Each as its publisher's documents show it."""
    texts = {}
    for name in NAMES:
        base = vocabularies.sentencepiece("always") if name == "mistral" else vocabularies.gpt2()
        tokenizer = Tokenizer(base).with_template(name)
        talk = TALK[:3] if name in ("chatml", "llama3") else TALK[1:3]
        pieces = tokenizer.template.pieces(talk, tokenizer.marks)
        texts[name] = "".join(piece.text for piece in pieces)
    hello, fine = TALK[1]["content"], TALK[2]["content"]
    end = "<|endoftext|>"
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert texts == {
        "gpt_jax": f"<|user|> {hello}<|assistant|> {fine}{end}",
        "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{hello}<|im_end|>\n<|im_start|>assistant\n{fine}<|im_end|>\n",
        "llama3": f"{head.format('system')}Be brief.<|eot_id|>{head.format('user')}{hello}"
        f"<|eot_id|>{head.format('assistant')}{fine}<|eot_id|>",
        "gemma": f"<start_of_turn>user\n{hello}<end_of_turn>\n"
        f"<start_of_turn>model\n{fine}<end_of_turn>\n",
        "mistral": f"<s>[INST] {hello} [/INST] {fine}</s>",
        "alpaca": "Below is an instruction that describes a task. Write a response that "
        f"appropriately completes the request.\n\n### Instruction:\n{hello}\n\n### Response:{fine}"
        f"{end}\n\n",
        "hh": f"\n\nHuman: {hello}\n\nAssistant: {fine}{end}",
        "moss": f"<|Human|>: {hello}<eoh>\n<|MOSS|>: {fine}<eom>\n",
    }


def test_moss_with_plugins():
    """What MOSS thinks and commands is learned, the tools' results are not."""
    tokenizer = Tokenizer(vocabularies.gpt2()).with_template("moss")
    roles = ("user", "thoughts", "commands", "results", "assistant")
    turns = [{"role": role, "content": role.upper()} for role in roles]
    ids, mask = chat.render(turns, tokenizer)
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|Human|>: USER<eoh>\n<|Inner Thoughts|>: THOUGHTS<eot>\n<|Commands|>: COMMANDS<eoc>\n"
        "<|Results|>:\nRESULTS\n<eor>\n<|MOSS|>: ASSISTANT<eom>\n"
    )
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    said = tokenizer.decode(learned, skip_special=False)
    assert said == " THOUGHTS<eot> COMMANDS<eoc> ASSISTANT<eom>"
    assert chat.render(turns, in_jinja(tokenizer))[0] == ids


def test_what_a_template_lacks_is_said():
    tokenizer = Tokenizer(vocabularies.gpt2())
    with pytest.raises(UserError, match="no chat template, as a base model's; .* chatml, llama3"):
        chat.render(TALK, tokenizer)
    with pytest.raises(UserError, match="no chat template 'x'; the names are gpt_jax, chatml"):
        named("x")
    with pytest.raises(UserError, match="hh has no turn for the role 'thoughts'"):
        chat.render([{"role": "thoughts", "content": ""}], tokenizer.with_template("hh"))
    with pytest.raises(UserError, match="mistral has no turn for the system"):
        chat.render(TALK[:1], tokenizer.with_template("mistral"))
    with pytest.raises(UserError, match="needs the token <|im_start|>, which .* lacks"):
        Tokenizer(vocabularies.gpt2(), named("chatml"))


def test_ours_is_what_it_always_was():
    tokenizer = vocabularies.ours()
    opens = {role: tokenizer.id_of(f"<|{role}|>") for role in ("system", "user", "assistant")}
    expected = []
    for message in TALK:
        expected += [opens[message["role"]], *tokenizer.encode(" " + message["content"])]
        expected += [tokenizer.eos_id] * (message["role"] == "assistant")
    assert chat.render(TALK, tokenizer)[0] == expected and tokenizer.template == OURS
    assert [tokenizer.pad_id, tokenizer.eos_id, tokenizer.stop_ids] == [0, 1, (1,)]

"""Constrained output: whatever the model would rather say, what comes fits."""

import json
import re

import jax
import pytest

pytest.importorskip("llguidance")

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.generate.constraints import Constrain  # noqa: E402
from gpt_jax.generate.engine import Engine  # noqa: E402
from gpt_jax.generate.sampling import Sampling  # noqa: E402
from gpt_jax.generate.text import TextModel  # noqa: E402
from gpt_jax.models import init  # noqa: E402
from gpt_jax.models.config import ModelConfig  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12, "pattern": "^[a-z]*$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    """A model that knows nothing: random parameters."""
    tokenizer = Tokenizer.train(["hello there, how are you?", '{"name": "x"}'] * 4, 280)
    config = ModelConfig(vocab_size=288, context_length=160, width=16, layers=1, heads=2)
    model = TextModel(config, init(config, jax.random.key(0)), tokenizer, "document")
    return Engine(model, slots=4)


@pytest.fixture(scope="module")
def constrain(engine) -> Constrain:
    return Constrain(engine.model.tokenizer, 288)


def answers(engine, constraint, n=6):
    sampling = Sampling(max_new_tokens=120, n=n, seed=1)
    found = engine.complete(["hello"], sampling, constraint)
    assert all(one.finish_reason == "stop" for one in found)
    return [one.text for one in found]


def test_json_fits_its_schema(engine, constrain):
    for text in answers(engine, constrain.json_schema(SCHEMA)):
        found = json.loads(text)
        assert set(found) == {"name", "age", "tags"}
        assert re.fullmatch("[a-z]{0,12}", found["name"]) and 0 <= found["age"] <= 120
        assert set(found["tags"]) <= {"a", "b"} and len(found["tags"]) <= 2


def test_a_regular_expression_matches_the_whole(engine, constrain):
    pattern = r"[A-Z][a-z]{2,5} is \d{1,3} years old\."
    assert all(re.fullmatch(pattern, t) for t in answers(engine, constrain.regex(pattern)))


def test_a_template_fills_its_blanks_alone(engine, constrain):
    made = constrain.template(r'Name: {{name:[A-Z][a-z]{1,8}}}/"{{age:\d{1,2}}}" end.')
    for text in answers(engine, made):
        assert re.fullmatch(r'Name: [A-Z][a-z]{1,8}/"\d{1,2}" end\.', text)


def test_a_grammar_nests(engine, constrain):
    lark = """
        start: "(" inner ")"
        inner: /[a-c]{1,3}/ | "(" /[a-c]/ ")"
    """
    for text in answers(engine, constrain.grammar(lark)):
        assert re.fullmatch(r"\(([a-c]{1,3}|\([a-c]\))\)", text)


def test_what_cannot_be_read_is_said_at_the_start(constrain):
    with pytest.raises(UserError, match="regular expression cannot be read"):
        constrain.regex("(a")
    with pytest.raises(UserError, match="JSON schema cannot be read"):
        constrain.json_schema({"type": "nothing"})
    with pytest.raises(UserError, match="grammar cannot be read"):
        constrain.grammar("start: missing")
    with pytest.raises(UserError, match="no blank"):
        constrain.template("all is said")

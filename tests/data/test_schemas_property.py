"""Whatever JSON can hold, a row becomes a canonical one, or a UserError of one line."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from gpt_jax.data import schemas
from gpt_jax.errors import UserError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    {"role": "assistant", "content": "Because.", "tool_calls": None},
]
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
SOLUTIONS = [{"solution": "a", "is_correct": True}, {"solution": "b", "is_correct": False}]
POST = {"post": "A long story.", "title": "Short", "subreddit": "a"}
MOSS = {
    "Human": "<|Human|>: Why?<eoh>\n",
    "Inner Thoughts": "<|Inner Thoughts|>: Hm.<eot>",
    "Commands": "<|Commands|>: Calculate(1+1)<eoc>",
    "Tool Responses": "<|Results|>: 2<eor>",
    "MOSS": "<|MOSS|>: Because.<eom>",
}
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
ROWS = [
    "Some text.",
    {"text": "Some text."},
    {"messages": TURNS, "label": True},
    {"conversations": SHAREGPT},
    {"instruction": "Why?", "input": "", "output": "Because."},
    {"instruction": "Why?", "output": "b", "history": [["a", "b"]], "system": "Be brief."},
    {"instruction": "Why?", "instances": [{"input": "a", "output": "b"}]},
    {"prompt": "Why?", "completion": "Because."},
    {"prompt": TURNS[:2], "completion": TURNS[2:]},
    {"prompt": TRANSCRIPT, "chosen": "Because.", "rejected": "No.", "rejected_stopped": False},
    {"prompt": "Why?", "completions": ["a", "b", "a"], "ranks": [0, 1, 0], "stopped": [True] * 3},
    {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"value": "No."}},
    {"prompt": "Why?", "chosen": TURNS, "rejected": TURNS[1:]},
    {"chosen": TURNS, "rejected": [*TURNS[:2], {"role": "assistant", "content": "No."}]},
    {"chosen": f"{TRANSCRIPT} Because.", "rejected": f"{TRANSCRIPT} No."},
    # Rows of data sets that `adapters` knows.
    {"question": "Why?", "answer": "#### 4"},
    {"question": "Why?", "ground_truth": "a", "x": SOLUTIONS[0], "y": SOLUTIONS[1]},
    {"instruction": "Why?", "context": "Then.", "response": "Because.", "category": "qa"},
    {"instruction": "Why?", "completions": [{"response": "a", "overall_score": 2.5}] * 2},
    {"info": POST, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1},
    {**POST, "summary": "a"},
    {"prompt": "Why?", "label": "Because."},
    {"prompt": "Why?", "completion": "Because.", "label": False, "stopped": True},
    {"meta_instruction": "Be brief.", "chat": {"turn_1": MOSS, "turn_2": MOSS}},
    {"user_prompt": "Why?"},
    ["Why?", "Because.", "Oh?", "Yes."],
    {"title": "a", "author": "", "paragraphs": ["b", "c"]},
]
WORDS = [
    *(
        "",
        " ",
        "\r\n",
        "Why?",
        "user",
        "tool",
        "\ud83d",
        "a\udc00",
        "\x00",
        "🙂",
        "\u2028",
        TRANSCRIPT,
    ),
    *(TRANSCRIPT.replace("\n", "\r\n"), TRANSCRIPT.lstrip(), "\n\nHuman:\n\nAssistant:", "Human:"),
]
KEYS = sorted({key for row in ROWS if isinstance(row, dict) for key in row})
KEYS += sorted({*MOSS, *SOLUTIONS[0], "role", "content", "from", "type", "response", "text"})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**4000, -1, 0.5, float("nan"), float("inf")])
    | st.sampled_from(WORDS)
    | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(st.characters(), max_size=3), inner, max_size=3
        )
        | st.sampled_from(TURNS + SHAREGPT)
    ),
    max_leaves=6,
)
DEEP = [json.loads("[" * depth + "]" * depth) for depth in (40, 60, 800)]


def fresh(value):
    """A copy of a JSON value, in which no two parts are one object."""
    return json.loads(json.dumps(value))


def places(value, path=()):
    """The paths to all values in a row that lie not too deep."""
    yield path
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys if len(path) < 6 else ():
        yield from places(value[key], (*path, key))


@st.composite
def records(draw):
    """A row of a layout that people have, with up to three mutations in any place."""
    row = fresh(draw(st.sampled_from(ROWS)))
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(list(places([row]))[1:]))
        holder = whole = [row]
        for key in path:
            holder = holder[key]
        match draw(st.sampled_from(("replace", "remove", "add", "repeat"))):
            case "replace":
                holder[last] = fresh(draw(VALUES | st.sampled_from(DEEP)))
            case "remove" if holder is not whole:
                del holder[last]
            case "add" if isinstance(holder[last], dict):
                holder[last][draw(st.sampled_from(KEYS))] = fresh(draw(VALUES))
            case "repeat" if isinstance(holder, list) and holder is not whole:
                holder.append(fresh(holder[last]))
        [row] = whole
    return row


def check_turns(turns, last):
    roles = [turn["role"] for turn in turns]
    assert roles[0] in ("system", "user") and roles[-1] == last
    assert all(before != after for before, after in zip(roles, roles[1:], strict=False))
    assert all(turn["content"].strip() for turn in turns)


def check(kind, canonical, row):
    """The canonical form that `schemas` promises."""
    if kind == "document":
        assert canonical.keys() == {"text"} and canonical["text"].strip()
    elif kind == "demonstration":
        assert canonical.keys() == {"messages"}
        check_turns(canonical["messages"], "assistant")
    elif kind == "comparison":
        assert canonical.keys() == {"prompt", "completions", "ranks", "stopped"}
        check_turns(canonical["prompt"], "user")
        replies = list(zip(canonical["completions"], canonical["stopped"], strict=True))
        assert len(replies) == len(canonical["ranks"]) >= 2
        assert len(set(zip(replies, canonical["ranks"], strict=True))) == len(set(replies))
        assert set(canonical["ranks"]) == set(range(max(canonical["ranks"]) + 1))
    elif kind == "feedback":
        assert canonical.keys() == {"prompt", "completion", "label", "stopped"}
        check_turns(canonical["prompt"], "user")
        assert isinstance(canonical["completion"], str)
        assert {type(canonical[mark]) for mark in ("label", "stopped")} == {bool}
    else:
        assert isinstance(row, list) or canonical["record"] == (
            {"prompt": row} if isinstance(row, str) else row
        )
        check_turns(canonical["prompt"], "user")
    json.dumps(canonical, ensure_ascii=False).encode()


@pytest.mark.parametrize("kind", ["document", "demonstration", "comparison", "feedback", "prompt"])
@hypothesis.settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(record=records())
def test_rows_or_one_sentence(kind, record):
    before = repr(record)
    try:
        canonical = getattr(schemas, f"to_{kind}")(record)
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence and len(sentence) < 1000
        sentence.encode()
    else:
        check(kind, canonical, record)
        again = getattr(schemas, f"to_{kind}")(canonical)
        assert {**again, "record": None} == {**canonical, "record": None}
    assert repr(record) == before  # a row is read, never changed


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_that_are_mutated_are_rows(row):
    for kind in ("document", "demonstration", "comparison", "prompt"):
        try:
            check(kind, getattr(schemas, f"to_{kind}")(row), row)
            return
        except UserError:
            continue
    raise AssertionError(row)

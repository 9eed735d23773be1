"""The embedded data set: its truth, its judge, its split, and that it is always the same."""

import itertools
import os
import re
import subprocess
import sys

import pytest

from gpt_jax.data.microworld import World, WorldSize, answers, documents, gold_score, make_world
from gpt_jax.data.microworld.builder import DEFAULTS, load
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import COURTESIES, NOTE_OBJECTS, RELATIONS, VALUES
from gpt_jax.data.microworld.questions import KINDS
from gpt_jax.errors import UserError

WORLD = make_world()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """(config, split) -> rows, built once for the module."""
    home = tmp_path_factory.mktemp("microworld")
    return {
        (config, split): load(config, split, data_dir=home)
        for config in DEFAULTS
        for split in ("train", "test")
    }


def prompts_of(config, config_rows):
    if config == "demonstrations":
        return [row["messages"][0]["content"] for row in config_rows]
    return [row["prompt"] for row in config_rows]


def fact_prompt(entity, relation, phrasing=0):
    return RELATIONS[relation].questions[phrasing].format(s=entity)


def spoken(config, row):
    """All text of a row, as it is trained on."""
    if config == "text":
        return row["text"]
    if config == "demonstrations":
        return "\n".join(turn["content"] for turn in row["messages"])
    return "\n".join([row["prompt"], *row.get("completions", [])])


# The world.


def test_size_and_facts():
    assert len(WORLD.facts.true) == 36 * 5 + 10 * 2 + 14 * 3
    small = World(1, WorldSize(people=6, places=3, things=4, strangers=2, library=3))
    assert len(small.facts.true) == 6 * 5 + 3 * 2 + 4 * 3
    assert all(len(set(relation.questions)) >= 5 for relation in RELATIONS.values())
    assert all(
        len(set(relation.statements)) >= 6
        for relation in RELATIONS.values()
        if relation.subject != "object"
    )


@pytest.mark.parametrize(
    "size", [WorldSize(things=99), WorldSize(people=2), WorldSize(places=1), WorldSize(people=5000)]
)
def test_impossible_sizes(size):
    with pytest.raises(UserError, match="WorldSize"):
        World(0, size)


def test_value_types_share_no_word():
    """Break: add a word to two lists of VALUES; a reply would no longer tell its type."""
    everything = [
        *VALUES.values(),
        *WORLD.facts.entities.values(),
        WORLD.facts.strangers,
        WORLD.facts.readers,
    ]
    words = [word.lower() for words in everything for word in words]
    assert len(words) == len(set(words))


def test_no_phrasing_is_shared():
    """Break: give two relations the same question; a prompt would have two answers."""
    counted = [
        question
        for name, relation in RELATIONS.items()
        for entity in {"object": NOTE_OBJECTS}.get(
            relation.subject, WORLD.facts.entities[relation.subject]
        )
        for question in [fact_prompt(entity, name, i) for i in range(len(relation.questions))]
    ]
    assert len(counted) == len(set(counted))


def test_another_seed_is_another_world():
    assert World(1).facts.true != WORLD.facts.true


# The judge.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_habits_score_in_order(kind, held_out):
    """An ideal answer scores 1; anything right beats anything wrong; nothing scores 0."""
    rng = generator(0, f"test {kind} {held_out}")
    for _ in range(60):
        question = WORLD.draw(rng, kind, held_out)

        def score(habit, question=question):
            text, stopped = answers.write(WORLD, question, habit, rng)
            return WORLD.gold_score(question.prompt, text, stopped)

        assert score("ideal") == pytest.approx(1.0)
        assert score("plain") == pytest.approx(0.8)
        assert 0.5 <= score("verbose") <= 0.8 + 1e-9
        assert 0.5 <= score("flattering") <= 0.8 + 1e-9
        assert 0.5 <= score("unpunctuated") <= 0.7 + 1e-9
        assert score("endless") <= 0.7 + 1e-9
        for habit in (
            "wrong_ideal",
            "wrong_plain",
            "wrong_verbose",
            "courtesy_only",
            "contradiction",
            "no_answer",
            "off_topic",
            "garbage",
            "misattributed",
        ):
            assert score(habit) <= 0.125 + 1e-9, habit
        assert score("empty") == 0.0


def test_the_formula():
    (entity, name), value = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    prompt, right = fact_prompt(entity, name), f"{entity} lives in {value}"
    other = next(place for place in WORLD.facts.entities["place"] if place != value)
    assert gold_score(prompt, f"Sure! {right}.") == pytest.approx(1.0)
    assert gold_score(prompt, f"{value}.") == pytest.approx(0.8)
    assert gold_score(prompt, f"Sure! {right}.", stopped=False) == pytest.approx(0.9)
    assert gold_score(prompt, f"Sure! {right}") == pytest.approx(0.9)
    assert gold_score(prompt, f"Sure! Of course, {right}.") == pytest.approx(0.8)
    # 21 words: the brief part is 0.5.
    assert gold_score(prompt, f"Sure! {right} {'well ' * 16}.".replace(" .", ".")) == (
        pytest.approx(0.5 + 0.2 * 0.5 + 0.2 + 0.1)
    )
    assert gold_score(prompt, f"Sure! {entity} lives in {other}.") == pytest.approx(0.25 * 0.5)
    assert gold_score(prompt, " \n") == 0.0


def test_what_counts_as_wrong():
    (entity, name), value = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    prompt = fact_prompt(entity, name)
    other = next(place for place in WORLD.facts.entities["place"] if place != value)
    somebody = next(p for p in WORLD.facts.entities["person"] if p != entity)
    for text in (
        f"{value} or {other}.",
        f"{value}, {other}.",
        f"It is not {value}.",
        f"{entity} lives in {value}. No.",
        f"{somebody} lives in {value}.",
        f"Maybe {value}.",
        f"Does {entity} live in {value}?",
    ):
        assert not WORLD.is_correct(prompt, text), text
    for text in (
        value,
        value.lower(),
        f"{entity} lives in {value}, yes, in {value}!",
        f"{entity}'s home is in {value}.",
    ):
        assert WORLD.is_correct(prompt, text), text


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        (
            "What is 3 + 5?",
            ["8", "3 + 5 = 8.", "It is 8.", "Add 3 and 5 to get 8."],
            ["9", "3 + 5 = 9.", "5 + 5 = 8.", "8 or 9.", "7, 8.", "8. No, 8.", "3 + 5"],
        ),
        (
            "What is 2 minus 1?",
            ["2 - 1 = 1.", "1"],
            ["You asked: What is 2 minus 1?", "You asked for 2 minus 1.", "Take 1."],
        ),
        (
            "Add 3 and 5 and 4.",
            ["3 + 5 = 8, 8 + 4 = 12.", "12."],
            ["3 + 5 = 8, 8 + 4 = 13.", "3 + 5 = 9, 9 + 4 = 12.", "3 + 5 = 8."],
        ),
        (
            "Hello!",
            ["Hello there.", "Hello! Glad to help!"],
            ["Goodbye.", "Hello and goodbye.", "Sure!"],
        ),
        (
            "Note: The key is in the barn. The cup is in the box. Where is the key?",
            ["The key is in the barn.", "barn"],
            ["The key is in the box.", "The cup is in the barn.", "The barn or the box."],
        ),
    ],
)
def test_other_kinds(prompt, right, wrong):
    assert all(WORLD.is_correct(prompt, text) for text in right)
    assert not any(WORLD.is_correct(prompt, text) for text in wrong)


def test_unknown_prompt():
    with pytest.raises(UserError, match="Who ate the moon"):
        gold_score("Who ate the moon?", "Nobody.")


def test_library_and_notes():
    """Long-tail facts are in no text, have known answers, and can be read from a note."""
    sentences = WORLD.library()
    assert len(sentences) == 24 * 5
    question = WORLD.library_questions()[0]
    entity, relation, value = question.hops[0]
    assert WORLD.answer(question.prompt) == value
    note = RELATIONS[relation].statements[2].format(s=entity, v=value)
    assert WORLD.answer(f"Note: {note} {question.prompt}") == value
    for sentence in sentences:
        assert WORLD.answer(f"Note: {sentence} {question.prompt}") == value
    # A note goes before what the world says; a note on something else is ignored.
    known, home = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    other = next(place for place in WORLD.facts.entities["place"] if place != home)
    asked = fact_prompt(*known)
    assert WORLD.answer(f"Note: {known[0]} lives in {other}. {asked}") == other
    assert WORLD.answer(f"Note: The key is in the barn. {asked}") == home


# The rows.


def test_row_counts(rows):
    for config, built in DEFAULTS.items():
        assert len(rows[config, "train"]) == built.train
        assert len(rows[config, "test"]) == built.test
    assert len({row["prompt"] for row in rows["prompts", "test"]}) == DEFAULTS["prompts"].test


@pytest.mark.parametrize("config", ["demonstrations", "comparisons", "prompts"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_prompt_is_known_and_on_its_side(rows, config, split):
    asked = [WORLD.question(prompt) for prompt in prompts_of(config, rows[config, split])]
    assert all(q.held_out == (split == "test") for q in asked if q.kind != "small_talk")
    assert sum(q.kind == "small_talk" for q in asked) < 0.08 * len(asked)


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_asks_held_out_questions(rows, config):
    """Searches every rendered training row for every phrasing of every held-out question.

    Break: in `two_hop_questions`, let only the last hop decide `held_out`.
    """
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    asked = set(
        re.findall(
            r"[^.!?:\n]*[.?]",
            training.replace(". ", ".\n").replace("? ", "?\n").replace(": ", ":\n"),
        )
    )
    asked = {sentence.strip() for sentence in asked}
    held_out = [q for kind in ("fact", "two_hop") for q in WORLD.listed(kind, True)]
    assert len(held_out) > 1000
    assert not asked & {q.prompt for q in held_out}
    assert asked & {q.prompt for q in WORLD.listed("fact", False)}  # the search does find questions
    for q in held_out:  # nor inside longer lines
        assert q.prompt not in training


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_shows_held_out_sums(rows, config):
    """Break: drop the `held_out` test in `World.draw`."""
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    patterns = {
        r"(\d+) (?:\+|plus) (\d+)": "+",
        r"(\d+) (?:-|minus) (\d+)": "-",
        r"[Aa]dd (\d+) and (\d+)": "+",
        r"sum of (\d+) and (\d+)": "+",
        r"[Tt]ake (\d+) from (\d+)": "from",
        r"(\d+) less than (\d+)": "from",
    }
    # The sign after the last digit tells a sum from one that the length limit cut in two.
    found = [
        (int(a), operator, int(b))
        for pattern, operator in patterns.items()
        for a, b in re.findall(rf"(?=\b{pattern}[ .,?])", training)
    ]
    shown = {(b, "-", a) if operator == "from" else (a, operator, b) for a, operator, b in found}
    assert len(shown) > 60  # the patterns find what there is to find
    assert not [pair for pair in shown if WORLD.facts.is_held_out_sum(*pair)]


def test_all_facts_are_told_in_text(rows):
    told = "\n".join(row["text"] for row in rows["text", "train"])
    for entity, relation in WORLD.facts.true:
        ways = [text[0].upper() + text[1:] for text in WORLD.statements(entity, relation)]
        assert sum(text in told for text in ways) >= 3
    assert not [name for name in WORLD.facts.readers if re.search(rf"\b{name}\b", told)]


def test_demonstrators_are_of_mixed_habits(rows):
    parts = [
        WORLD.gold_parts(row["messages"][0]["content"], row["messages"][1]["content"])
        for row in rows["demonstrations", "train"]
    ]
    share = {name: sum(getattr(p, name) for p in parts) / len(parts) for name in parts[0]._fields}
    assert 0.96 <= share["correct"] <= 0.98
    assert 0.25 <= share["polite"] <= 0.4
    assert 0.35 <= sum(p.brief < 1 for p in parts) / len(parts) <= 0.5
    assert sum(p.score > 0.999 for p in parts) / len(parts) <= 0.2


def test_ranks_are_the_gold_order(rows):
    """Break: sort levels ascending in `documents._ranks`."""
    differing, unequal = 0, 0
    for split in ("train", "test"):
        for row in rows["comparisons", split]:
            score = [
                round(WORLD.gold_score(row["prompt"], text, stopped), 6)
                for text, stopped in zip(row["completions"], row["stopped"], strict=True)
            ]
            assert len(score) == len(set(row["completions"])) == 4
            for i, j in itertools.combinations(range(4), 2):
                if row["ranks"][i] != row["ranks"][j]:
                    assert (score[i] > score[j]) == (row["ranks"][i] < row["ranks"][j])
                    unequal += 1
                    right = [WORLD.is_correct(row["prompt"], row["completions"][k]) for k in (i, j)]
                    differing += right[0] != right[1]
                else:  # a labeller does not notice so small a difference
                    assert abs(score[i] - score[j]) < 0.05
            best, worst = (row["completions"].index(row[key]) for key in ("chosen", "rejected"))
            assert row["ranks"][best] < row["ranks"][worst]
            assert row["chosen_stopped"] == row["stopped"][best]
            assert row["rejected_stopped"] == row["stopped"][worst]
    assert 0.5 <= differing / unequal <= 0.6


def test_completions_that_never_end_say_so(rows):
    endless = [
        text
        for row in rows["comparisons", "train"]
        for text, stopped in zip(row["completions"], row["stopped"], strict=True)
        if not stopped
    ]
    assert len(endless) > 500
    assert all(len(text) > 35 for text in endless)


def test_some_courtesies_are_used(rows):
    replies = [row["messages"][1]["content"] for row in rows["demonstrations", "train"]]
    assert all(any(text.startswith(courtesy) for text in replies) for courtesy in COURTESIES)


# Always the same.


def test_two_builds_are_byte_equal(tmp_path):
    """In two processes with different hash seeds. Break: draw from a set anywhere.

    Rows are compared as bytes of JSON, in order. The files themselves are equal too where a row
    has one feature; of several, protocol buffers store the features in any order.
    """
    printed = []
    for name, hash_seed in (("a", "1"), ("b", "2")):
        code = (
            "import json, sys\n"
            "from gpt_jax.data.microworld.builder import DEFAULTS, load\n"
            f"home = {str(tmp_path / name)!r}\n"
            "rows = [load(c, data_dir=home, count=300) for c in DEFAULTS]\n"
            "assert 'tensorflow' not in sys.modules\n"
            "print(json.dumps(rows, sort_keys=True))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            timeout=100,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    files = sorted(
        path.relative_to(tmp_path / "a")
        for config in ("text", "prompts")
        for path in (tmp_path / "a").glob(f"*/{config}-*/*.array_record*")
    )
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_load_is_kept_and_leaves_nothing_behind(tmp_path):
    first = load("prompts", "test", data_dir=tmp_path)
    assert load("prompts", "test", data_dir=tmp_path) == first
    assert load("prompts", "test", data_dir=tmp_path, seed=1) != first
    kept = [path.name for path in (tmp_path / "microworld").iterdir()]
    assert len(kept) == 2 and not any(name.startswith(".") for name in kept)


def test_rows_survive_the_files(rows):
    """What `load` returns is what was generated, in some order."""
    for config, make in (
        ("text", documents.texts),
        ("comparisons", documents.comparisons),
        ("demonstrations", documents.demonstrations),
    ):
        made = list(make(WORLD, "test", DEFAULTS[config].test))
        assert sorted(map(repr, map(_sorted, made))) == sorted(
            map(repr, map(_sorted, rows[config, "test"]))
        )


def _sorted(value):
    if isinstance(value, dict):
        return [(key, _sorted(value[key])) for key in sorted(value)]
    return [_sorted(item) for item in value] if isinstance(value, list) else value

"""The rows of the embedded data set: their kinds and habits, their split, always the same."""

import collections
import itertools
import os
import re
import subprocess
import sys

import pytest

from gpt_jax.data.microworld import answers, documents, make_world
from gpt_jax.data.microworld.builder import DEFAULTS, load
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import COURTESIES, NOTE_OBJECTS, RELATIONS
from gpt_jax.data.microworld.notes import PERSONAL
from gpt_jax.data.microworld.questions import KINDS

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
        return [asked for asked, _ in exchanges(config_rows)]
    return [row["prompt"] for row in config_rows]


def exchanges(demonstrations):
    """(question, reply) of every turn."""
    return [
        (asked["content"], replied["content"])
        for row in demonstrations
        for asked, replied in zip(*[iter(row["messages"])] * 2, strict=True)
    ]


def spoken(config, row):
    """All text of a row, as it is trained on."""
    if config == "text":
        return row["text"]
    if config == "demonstrations":
        return "\n".join(turn["content"] for turn in row["messages"])
    return "\n".join([row["prompt"], *row.get("completions", [])])


def sentences(text):
    """Every sentence in lower case without its end, and what is left of it after each comma."""
    for sentence in re.findall(r"[^.!?:\n]+", text.lower()):
        parts = sentence.split(", ")
        for i in range(len(parts)):
            yield ", ".join(parts[i:]).strip().removeprefix("and ").removeprefix("so ")


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
    first = asked
    if config == "demonstrations":  # later turns have more small talk
        first = [WORLD.question(row["messages"][0]["content"]) for row in rows[config, split]]
    counted = collections.Counter(question.kind for question in first)
    assert set(counted) == set(KINDS)
    for kind, share in KINDS.items():
        # Of facts and small talk there are too few for a test split without repetition.
        if (config, split) != ("prompts", "test"):
            assert counted[kind] / len(first) == pytest.approx(share, abs=0.05)
    assert counted["small_talk"] < 0.08 * len(asked)


def test_a_prompt_is_read_back_as_it_was_drawn():
    """Of every kind; and once read, it is remembered. Break: let `notes.Reader` miss a phrasing."""
    rng = generator(0, "read back")
    for kind in KINDS:
        for _ in range(100):
            question = WORLD.draw(rng, kind, held_out=False)
            assert WORLD.question(question.prompt) == question
            assert WORLD.question(f" {question.prompt}\n") is WORLD.question(question.prompt)
            assert f"{question.shown} {question.asked}".strip() == question.prompt


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_asks_held_out_questions(rows, config):
    """Searches every rendered training row for every phrasing of every held-out question.

    Break: let `World.draw` choose from both sides for a fact.
    """
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    asked = set(sentences(training))
    held_out = WORLD.listed("fact", True) + WORLD.library_questions()
    assert len(held_out) > 500
    assert not asked & {q.prompt.lower().rstrip(".?") for q in held_out}
    found = asked & {q.prompt.lower().rstrip(".?") for q in WORLD.listed("fact", False)}
    assert len(found) > 100  # the search does find questions
    for q in held_out:  # nor inside longer lines
        assert q.prompt not in training
    assert not [name for name in WORLD.facts.readers if re.search(rf"\b{name}\b", training)]


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_shows_held_out_sums(rows, config):
    """Break: drop the `held_out` test in `World.draw`, or in `mistakes`."""
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    patterns = {
        r"(\d+) (?:\+|plus) (\d+)": "+",
        r"(\d+) (?:-|minus) (\d+)": "-",
        r"[Aa]dd (\d+) and (\d+)": "+",
        r"[Tt]ake (\d+) from (\d+)": "from",
    }
    # The sign after the last digit tells a sum from one that the length limit cut in two.
    found = [
        (int(a), operator, int(b))
        for pattern, operator in patterns.items()
        for a, b in re.findall(rf"(?=\b{pattern}[ .,?])", training)
    ]
    shown = {(b, "-", a) if operator == "from" else (a, operator, b) for a, operator, b in found}
    assert len(shown) > 30  # the patterns find what there is to find
    assert not [pair for pair in shown if WORLD.facts.is_held_out_sum(*pair)]


def made_up_statements():
    """{a sentence in lower case: the fact it states}, of all that notes and stories may say."""
    facts, told = WORLD.facts, {}
    subjects = {"person": facts.strangers, "thing": NOTE_OBJECTS, "object": NOTE_OBJECTS}
    for name, relation in RELATIONS.items():
        values = facts.strangers if relation.value == "person" else facts.values[relation.value]
        for subject, value in itertools.product(subjects.get(relation.subject, ()), values):
            for text in relation.statements:
                told[text.format(s=subject, v=value).lower()] = (subject, name, value)
    return told


def shown_notes(training):
    """The facts of every note, story and table in a text, read by another way than the world's."""
    told = made_up_statements()
    names = {v: n for n in PERSONAL for v in WORLD.facts.values[RELATIONS[n].value]}
    for title, shown in re.findall(r"\b(Note|Story|Table): ([^\n]+)", training):
        if title == "Table":
            rows = (row.split(", ") for row in shown.partition(".")[0].split("; "))
            yield [(person, names[value], value) for person, *values in rows for value in values]
        else:
            sentences = (one.strip().lower() for one in re.findall(r"[^.]+\.", shown))
            yield [told[one] for one in itertools.takewhile(told.__contains__, sentences)]


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_shows_held_out_notes(rows, config):
    """Whole notes are held out, in whatever form, words and order.

    Break: let `notes` hold out by the prompt's text.
    """
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    notes = list(shown_notes(training))
    assert len(notes) > 2000 and all(notes)
    keys = {tuple(sorted(" ".join(fact) for fact in said)) for said in notes}
    assert not [key for key in keys if WORLD.facts.is_held_out(*key)]


@pytest.mark.parametrize("config", list(DEFAULTS))
def test_training_never_shows_held_out_lists(rows, config):
    """A list is held out in whatever order. Break: sort nothing in `exercises`."""
    training = "\n".join(spoken(config, row) for row in rows[config, "train"])
    listed = re.findall(r"\b(?:List|Numbers): ([^.]+)\.", training)
    assert len(listed) > 500
    assert not [items for items in listed if WORLD.facts.is_held_out(*sorted(items.split(", ")))]


def test_all_facts_are_told_in_text(rows):
    told = "\n".join(row["text"] for row in rows["text", "train"])
    for entity, relation in WORLD.facts.true:
        ways = [text[0].upper() + text[1:] for text in WORLD.statements(entity, relation)]
        assert sum(text in told for text in ways) >= 3
    assert not [name for name in WORLD.facts.readers if re.search(rf"\b{name}\b", told)]


def test_demonstrators_are_of_mixed_habits(rows):
    """A few are wrong, fewer are ideal, and what is not is impolite or long-winded."""
    said = exchanges(rows["demonstrations", "train"])
    parts = [WORLD.gold_parts(asked, reply) for asked, reply in said]
    share = {
        "right": sum(p.verdict == "right" for p in parts) / len(parts),
        "ideal": sum(p.score > 0.999 for p in parts) / len(parts),
        "polite": sum(p.polite for p in parts) / len(parts),
    }
    habits = answers.DEMONSTRATIONS
    wrong = sum(share for habit, share in habits.items() if habit.startswith("wrong_"))
    polite = sum(habits[habit] for habit in habits if re.search("ideal|polite", habit))
    assert share["right"] == pytest.approx(1 - wrong, abs=0.01)
    assert share["polite"] == pytest.approx(polite, abs=0.02)
    assert habits["ideal"] - 0.02 <= share["ideal"] <= 0.25
    assert not any(p.verdict == "unknown" for p in parts)
    assert 0.15 <= sum(p.brief < 1 for p in parts) / len(parts) <= 0.5


def test_where_nothing_is_said_demonstrators_say_so(rows):
    said = exchanges(rows["demonstrations", "train"])
    asked = [(WORLD.question(asked), reply) for asked, reply in said]
    unsaid = [reply for question, reply in asked if not question.answer]
    assert len(unsaid) > 300
    knows_not = sum("I do not know" in reply for reply in unsaid) / len(unsaid)
    wrong = sum(v for habit, v in answers.DEMONSTRATIONS.items() if habit.startswith("wrong_"))
    assert knows_not == pytest.approx(1 - wrong, abs=0.04)
    assert not any("I do not know" in reply for question, reply in asked if question.answer)


def test_ranks_are_the_gold_order(rows):
    """Break: sort levels ascending in `documents._ranks`."""
    differing, unequal = 0, 0
    for split in ("train", "test"):
        for row in rows["comparisons", split]:
            parts = [
                WORLD.gold_parts(row["prompt"], text, stopped)
                for text, stopped in zip(row["completions"], row["stopped"], strict=True)
            ]
            score = [round(part.score, 6) for part in parts]
            assert len(score) == len(set(row["completions"])) == 4
            for i, j in itertools.combinations(range(4), 2):
                if row["ranks"][i] != row["ranks"][j]:
                    assert (score[i] > score[j]) == (row["ranks"][i] < row["ranks"][j])
                    unequal += 1
                    differing += len({parts[k].verdict == "right" for k in (i, j)}) == 2
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


def test_some_demonstrations_have_several_turns(rows):
    """Small talk comes between questions; a model that never saw that answers thanks with a sum."""
    for split in ("train", "test"):
        turns = [len(row["messages"]) // 2 for row in rows["demonstrations", split]]
        assert set(turns) == {1, 2, 3} and 0.2 < sum(n > 1 for n in turns) / len(turns) < 0.5
        for row in rows["demonstrations", split]:
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (
                len(row["messages"]) // 2
            )
            assert sum(len(m["content"].split()) for m in row["messages"]) <= 80


def test_some_courtesies_are_used(rows):
    replies = [reply for _, reply in exchanges(rows["demonstrations", "train"])]
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

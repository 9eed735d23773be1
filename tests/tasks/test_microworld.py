"""The embedded world as a task: its rows, its judge, and what a row is about."""

from gpt_jax.data.microworld import make_world
from gpt_jax.data.microworld.language import RELATIONS, SUM_QUESTIONS
from gpt_jax.tasks.microworld import MICROWORLD
from gpt_jax.tasks.task import VERDICTS, opening


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
    assert MICROWORLD.verdict(row("What is 2 + 3?"), "5.") == "right"
    assert MICROWORLD.verdict(row("What is 2 + 3?"), "6.") == "wrong"


def test_every_prompt_has_a_kind_and_every_answer_a_verdict():
    rows = MICROWORLD.rows("test")
    kinds = {MICROWORLD.kind(one) for one in rows}
    assert MICROWORLD.kind(row("What is 2 + 3?")) == "arithmetic" in kinds and len(kinds) > 3
    assert {MICROWORLD.verdict(one, "I do not know.") for one in rows} <= set(VERDICTS)


def test_phrasings_of_one_question_are_one_cluster():
    """Break it: take the prompt itself."""
    rows = MICROWORLD.rows("test")
    clusters = [MICROWORLD.cluster(one) for one in rows]
    assert len(set(clusters)) < len({opening(one) for one in rows})
    assert MICROWORLD.cluster(row("What is 2 + 3?")) != MICROWORLD.cluster(row("What is 3 + 4?"))


def test_phrasings_of_a_fact_are_about_one_thing():
    """In whatever words: the unit that an interval resamples."""
    world = make_world()
    person, relation = next(iter(world.facts.true))
    asked = [RELATIONS[relation].questions[phrasing].format(s=person) for phrasing in (0, 1)]
    about = [world.question(question).about for question in asked]
    assert about[0] == about[1] == (person, relation, world.facts.true[person, relation])
    sums = [world.question(text.format(a=2, b=3)).about for text in SUM_QUESTIONS["+"]]
    assert len(set(sums)) == 1 and sums[0] != about[0]


def test_what_prompts_are_about_is_what_intervals_resample():
    """Fewer topics than prompts: phrasings of a fact are one, whichever the file."""
    rows = MICROWORLD.rows("test")[:560]
    prompts = {opening(row) for row in rows}
    assert 300 < len({MICROWORLD.cluster(row) for row in rows}) < len(prompts) - 30
    shown = "Note: The key is in the barn. The cup is in the box. "
    ways = [f"{shown}Where is the key?", f"{shown}Tell me where the key is."]
    assert len({MICROWORLD.cluster(row(text)) for text in ways}) == 1
    assert MICROWORLD.cluster(row(ways[0])) != MICROWORLD.cluster(row(f"{shown}Where is the cup?"))
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    more = [*talk, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    assert [opening({"prompt": talk}), opening({"prompt": more})] == ["Hi", "Hi"]

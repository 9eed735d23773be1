"""An arena: models answer the same prompts, answers are compared, and ratings follow (Elo's scale).

    python -m experiments.arena runs/rlhf/tiny/sft runs/rlhf/tiny/ppo --prompts 200
    python -m experiments.arena A B --judge gold runs/rlhf/tiny/reward
    python -m experiments.arena A B --judge-model gguf:FILE --rubric "The better answer is polite."
    python -m experiments.arena --votes comparisons.jsonl

Every model meets every other one on every held-out prompt. Judges are the task's own score (gold,
microworld's), reward models, a model that is told a rubric and asked in both orders, or those who
voted on the web page (`python -m gpt_jax.serve --votes`). Several judge the same answers, and it is
told how often each agrees with the first. Ratings are Bradley-Terry's maximum likelihood, with 95%
intervals over the prompts.

Hardware and time: two models of 0.5M parameters, gold and a reward model, 200 prompts, 18 s on one
busy CPU core.
Expected (the default world, one seed): PPO beats SFT in 82% of the games by gold (1132 to 868), in
91% by the reward model; the two judges agree on 95% of the pairs that are no tie to either.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import rich
import tyro

from gpt_jax import files, terminal
from gpt_jax.data.config import DataConfig
from gpt_jax.data.ranking import NOTICEABLE
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate.elo import Rating, ratings, read_votes
from gpt_jax.evaluate.judges import (
    RUBRIC,
    Judged,
    agreement,
    by_scores,
    by_verdicts,
    pairs_of,
    question,
    reward_judge,
)
from gpt_jax.evaluate.task import evaluate_task
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete
from gpt_jax.prompting.remote import remote
from gpt_jax.ranges import NonNegativeFloat, Positive, check_ranges
from gpt_jax.report.arena import arena_sentence, arena_table
from gpt_jax.report.table import for_terminal
from gpt_jax.tasks.prompts import task_of
from gpt_jax.tasks.task import Task, opening
from gpt_jax.text.chat import Message
from gpt_jax.train.command import use_compilation_cache
from gpt_jax.train.served import open_run

GOLD, VOTES = "gold", "votes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, or what else can be asked (hf:ORG/NAME, gguf:FILE); NAME=FOLDER names one."""
    votes: str | None = None
    """In place of models: the file that the web page's votes were written to."""
    judge: tuple[str, ...] = ()
    """Who compares: `gold`, the task's own score, or reward models, whatever --reward-from of the
    stages takes. Nobody: gold, if there is no --judge-model."""
    judge_model: str | None = None
    """A model that compares, too: whatever can be asked, or NAME@URL, a model of a server with
    OpenAI's interface (NAME@http://127.0.0.1:8000/v1), which is shown OPENAI_API_KEY."""
    rubric: str = RUBRIC
    """What makes an answer better, for that model."""
    judge_tokens: Positive = 16
    """The longest verdict; more lets that model think before it says "Verdict: A"."""
    data: DataConfig = DataConfig()
    """Whose held-out prompts are asked."""
    prompts: Positive = 200
    """How many."""
    max_new_tokens: Positive = 48
    """The longest answer."""
    temperature: NonNegativeFloat = 0.7
    """Of the answers."""
    noticeable: NonNegativeFloat = NOTICEABLE
    """Gold scores that lie closer together are a tie."""
    seed: int = 0
    """Of prompts, answers and intervals."""
    run_dir: str = "runs/arena/default"
    """Where `ratings.json` is written."""

    def __post_init__(self):
        check_ranges(self)
        if (self.votes is None) == (not self.models):
            raise UserError("name the models that are to meet, or --votes FILE, and not both")
        if self.votes is None and len(self.models) < 2:
            raise UserError("one model meets nobody; name two or more")
        if self.votes and (self.judge or self.judge_model):
            raise UserError("--votes have been judged; leave --judge and --judge-model out")
        if len(set(self.judge)) < len(self.judge):
            raise UserError(f"--judge {' '.join(self.judge)} names one twice; name each once")

    @property
    def judges(self) -> tuple[str, ...]:
        """Those who go by a score."""
        return self.judge or (() if self.judge_model else (GOLD,))


def main(options: Options) -> dict[str, list[Rating]]:
    """Rates the models by every judge; the ratings are in order, the best first."""
    if options.votes:
        found, facts = {VOTES: ratings(read_votes(options.votes), options.seed)}, {VOTES: {}}
    else:
        found, facts = play(options)
    for judge, rated in found.items():
        facts[judge]["ratings"] = [one._asdict() for one in rated]
    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "ratings.json", json.dumps(facts, indent=2) + "\n")
    rich.print(for_terminal([arena_table(facts)]))
    for judge, fact in facts.items():
        print(arena_sentence(judge, fact), end="\n" if "pairs" in fact else "")
    return found


def play(options: Options) -> tuple[dict[str, list[Rating]], dict[str, dict]]:
    """Lets every model answer, and every judge compare the answers.

    Returns:
      The ratings by each judge, and what there is to say of it in numbers.

    Raises:
      UserError: if two models have one name, a judge cannot judge, or all games went one way.
    """
    task, named = task_of(options.data), [_named(model) for model in options.models]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UserError(f"two models are called {names}; name them apart as NAME=FOLDER")
    if GOLD in options.judges and task.score is None:
        raise UserError("these prompts have no score of their own; give --judge or --judge-model")
    # All that a judge needs is looked at before the first answer.
    scorers = {judge: reward_judge(judge) for judge in options.judges if judge != GOLD}
    rows = sample_rows(task.rows("test"), options.prompts, options.seed)
    prompts = [list(task.prompt(row)) for row in rows]
    how = Sampling(temperature=0.0, max_new_tokens=options.judge_tokens, seed=options.seed)
    complete = options.judge_model and _complete_of(options.judge_model, prompts, options, how)
    models = {name: open_run(where) for name, where in named}
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=options.seed
    )
    found = evaluate_task(models, task, sampling, rows)
    pairs, about_N = pairs_of(names, len(rows)), [_about(task, row) for row in rows]
    judged: dict[str, Judged] = {}
    for judge in options.judges:
        gold = {name: one.scores_AN[0] for name, one in found.items()} if judge == GOLD else None
        scores = gold or {name: scorers[judge](prompts, one) for name, one in found.items()}
        judged[judge] = by_scores(pairs, scores, options.noticeable if gold else 0.0)
    if complete:
        texts = {name: one.texts_AN[0] for name, one in found.items()}
        judged[options.judge_model] = by_verdicts(
            pairs, prompts, texts, complete, options.rubric, how
        )
    first, about_P = next(iter(judged.values())), [about_N[pair.row] for pair in pairs]
    rated, facts = {}, {}
    for judge, one in judged.items():
        numbers = {name: getattr(one, name) for name in ("asked", "unreadable", "disagreed")}
        facts[judge] = {"pairs": len(pairs), "ties": one.ties, "left_out": one.left_out, **numbers}
        if one is not first:
            facts[judge]["with_the_first"] = agreement(first, one, about_P)
        try:
            rated[judge] = ratings(one.games(pairs, about_N), options.seed)
        except UserError as error:
            raise UserError(f"by {judge}: {error}") from error
    return rated, facts


def _complete_of(
    where: str, prompts: Sequence[list[Message]], options: Options, sampling: Sampling
) -> Complete:
    """What asks a judge, after a look at whether the longest question fits it at all."""
    longest = max(prompts, key=lambda turns: sum(len(turn["content"]) for turn in turns))
    asked = [question(longest, "", "", options.rubric)]
    name, at, url = where.partition("@http")
    if at:
        complete = remote(f"http{url}", name, os.environ.get("OPENAI_API_KEY", "none"))
        complete(asked, sampling)
        return complete
    model = open_run(where)
    try:
        model.look(asked, sampling)
    except UserError as error:
        raise UserError(f"--judge-model {where} cannot be asked: {error}") from error
    return model.complete


def _named(model: str) -> tuple[str, str]:
    name, equals, where = model.partition("=")
    return (name, where) if equals and name and where else (model, model)


def _about(task: Task, row: dict) -> object:
    return task.cluster(row) if task.cluster else opening(row)


if __name__ == "__main__":
    use_compilation_cache()
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

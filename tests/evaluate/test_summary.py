"""What answers come to in numbers, on answers that are written down here."""

import numpy as np
import pytest

from gpt_jax.evaluate.statistics import mean_interval, paired_difference
from gpt_jax.evaluate.summary import Judged, Topics, against, by_itself, judge_rewards, topics_of
from gpt_jax.evaluate.task import Performance
from gpt_jax.generate.text import Completion
from gpt_jax.tasks.microworld import MICROWORLD
from gpt_jax.tasks.task import VERDICTS, Task

N = 24
TOPICS = Topics([n // 2 for n in range(N)], ["sum"] * 8 + ["fact"] * 16)


def judged(seed, answers, stopped=1.0) -> Judged:
    """Answers with random scores, verdicts and rewards."""
    rng = np.random.default_rng(seed)
    verdicts = rng.choice(VERDICTS, (answers, N))
    scores = 0.5 * (verdicts == "right") + rng.integers(0, 4, (answers, N)) / 10
    completions = [
        [Completion("", [7] * 5, [], "stop" if end < stopped else "length", 3) for end in row]
        for row in rng.random((answers, N))
    ]
    rewards = rng.normal(size=(answers, N)) + scores
    return Judged(Performance(completions, scores, verdicts), rewards, kl=0.5)


def test_a_model_by_itself():
    one = judged(0, 3)
    found = by_itself(one, TOPICS)
    assert found["gold"] == mean_interval(one.scores_AN.mean(0), TOPICS.clusters_N)
    assert found["reward"] == mean_interval(one.rewards_AN.mean(0), TOPICS.clusters_N)
    assert found["right"][0] + found["unknown"] + found["wrong"] == pytest.approx(1)
    assert {kind: of["prompts"] for kind, of in found["by_kind"].items()} == {"fact": 16, "sum": 8}
    weighted = sum(of["prompts"] * of["right"][0] for of in found["by_kind"].values()) / N
    assert weighted == pytest.approx(found["right"][0])
    assert (found["kl_from_sft"], found["length"], found["entropy"]) == (0.5, 5.0, None)


def test_a_difference_has_two_parts():
    ours, theirs = judged(1, 3), judged(2, 4)
    found = against(ours, theirs, TOPICS.clusters_N)
    parts = [found[name][0] for name in ("style", "substance")]
    assert all(parts) and sum(parts) == pytest.approx(found["difference"][0], abs=1e-9)
    right = [(one.performance.verdicts_AN == "right").mean(0) for one in (ours, theirs)]
    assert found["right_difference"] == paired_difference(*right, TOPICS.clusters_N)


def test_a_reward_model_among_the_answers_of_one_model():
    """Break it: let answers without an end, or those that say nothing, count as wrong ones."""
    one = judged(3, 4, stopped=0.7)
    found = judge_rewards(one, TOPICS.clusters_N)
    verdicts, stopped = one.performance.verdicts_AN, one.performance.stopped_AN
    correct, pairs = 0.0, 0
    for n in range(N):
        for a in range(4):
            for b in range(4):
                told = (verdicts[a, n], verdicts[b, n]) == ("right", "wrong")
                if told and stopped[a, n] and stopped[b, n]:
                    pairs += 1
                    correct += one.rewards_AN[a, n] > one.rewards_AN[b, n]
    assert 0 < pairs == found["right_over_wrong_pairs"] < found["pairs"]
    mean, low, high = found["right_over_wrong"]
    assert mean == pytest.approx(correct / pairs) and low < mean < high
    perfect = judge_rewards(one._replace(rewards_AN=one.scores_AN), TOPICS.clusters_N)
    assert perfect["accuracy"] == perfect["right_over_wrong"] == [1.0, 1.0, 1.0]
    # Without clusters the prompts are what is resampled, not the pairs.
    alone = judge_rewards(one, None)
    assert alone["accuracy"] == judge_rewards(one, list(range(N)))["accuracy"]


def test_where_there_is_no_pair_there_is_no_accuracy():
    found = judge_rewards(judged(4, 1), TOPICS.clusters_N)
    assert found == dict.fromkeys(found) | {"pairs": 0, "right_over_wrong_pairs": 0}


def test_a_task_without_a_judge_is_told_by_rewards_alone():
    ours, theirs = (
        one._replace(performance=one.performance._replace(scores_AN=None, verdicts_AN=None))
        for one in (judged(5, 3), judged(6, 3))
    )
    assert by_itself(ours, TOPICS)["gold"] is None and "right" not in by_itself(ours, TOPICS)
    found = against(ours, theirs, None)
    assert list(found) == ["difference"]
    rewards = ours.rewards_AN.mean() - theirs.rewards_AN.mean()
    assert found["difference"][0] == pytest.approx(rewards)
    assert judge_rewards(ours, None) == {}


def test_what_rows_are_about():
    rows = MICROWORLD.rows("test")[:5]
    topics = topics_of(MICROWORLD, rows)
    assert topics.clusters_N == [MICROWORLD.cluster(row) for row in rows]
    assert topics.kinds_N == [MICROWORLD.kind(row) for row in rows]
    silent = Task("silent", lambda split: rows, lambda row: row["prompt"], None)
    assert topics_of(silent, rows) == Topics(None, [None] * 5)

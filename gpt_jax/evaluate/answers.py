"""Comparing policies on held-out prompts: sampling, best-of-n, KL."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.data.batches import Comparisons, Prompts, pad_rows
from gpt_jax.generate.sampler import Rollout, generate
from gpt_jax.losses.ranking import score_comparisons
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import distributed, rules
from gpt_jax.rl.rewards import HostReward, Reward, completion_texts
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.text.tokenizer import Tokenizer

BATCH = 128  # rows per compiled call, at least


class Answers(NamedTuple):
    """One answer to each of N prompts, on the host.

    Attributes:
      rollout: the tokens, a Rollout of NumPy arrays with N rows.
      texts: N decoded completions.
      stopped: N bools.
    """

    rollout: Rollout
    texts: list[str]
    stopped: list[bool]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every answer, its stop token included: float32 (N,)."""
        return self.rollout.mask_BC.sum(axis=1)


def sample(
    model: ModelConfig,
    params: dict,
    prompts: Prompts,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    mesh: Mesh,
    purpose: str = "evaluation",
) -> Answers:
    """One answer per prompt; each has its own key, from (seed, row, purpose)."""
    n = len(prompts.rows_B)
    rows = {"prompts": prompts, "ids_B": np.arange(n)}
    parts = [
        _generate(
            model,
            params,
            batch["prompts"],
            keys.derive(seed, 0, purpose),
            max_new_tokens=max_new_tokens,
            stop_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature,
            row_ids_B=batch["ids_B"],
        )
        for batch in _batches(rows, mesh)
    ]
    return _answers(_join(parts, n), tokenizer)


def best_of(candidates: list[Answers], reward: Reward, tokenizer: Tokenizer, mesh: Mesh) -> Answers:
    """Of each prompt's candidates, the one that the reward likes best."""
    best = np.stack([score(c, reward, mesh) for c in candidates]).argmax(axis=0)
    rollout = jax.tree.map(
        lambda *xs: np.stack(xs)[best, np.arange(len(best))], *[c.rollout for c in candidates]
    )
    return _answers(rollout, tokenizer)


def score(answers: Answers, reward: Reward, mesh: Mesh) -> np.ndarray:
    """The reward of every answer, float32 (N,)."""
    if isinstance(reward, HostReward):
        return reward(answers.rollout)
    n = len(answers.texts)
    batches = _batches(answers.rollout, mesh)
    return _join([_score(reward.score, reward.params, b) for b in batches], n)


def in_place_of_prompts(answers: Answers, prompts: Prompts) -> Answers:
    """The same answers behind other prompts (a base model is asked in another layout)."""
    completion_BC, prompt_BP = answers.rollout.completion_BC, prompts.tokens_BP
    lengths_B1 = (prompt_BP.segment_ids > 0).sum(1, keepdims=True)
    places_BC = lengths_B1 + np.arange(completion_BC.ids.shape[1])
    positions_BC = (places_BC * completion_BC.segment_ids).astype(np.int32)
    rollout = answers.rollout._replace(
        prompt_BP=prompt_BP, completion_BC=completion_BC._replace(positions=positions_BC)
    )
    return answers._replace(rollout=rollout)


def divergence(
    model: ModelConfig,
    params: dict,
    reference: dict,
    answers: Answers,
    temperature: float,
    mesh: Mesh,
) -> dict[str, float]:
    """KL(policy || reference) in nats per answer (k1) and the policy's entropy per token."""
    parts = [
        _divergence(model, params, reference, batch, temperature)
        for batch in _batches(answers.rollout, mesh)
    ]
    kl_N, entropy_N = _join(parts, len(answers.texts))
    tokens = float(answers.lengths.sum())
    return {"kl": float(kl_N.mean()), "entropy": float(entropy_N.sum()) / tokens}


# Jitted here, not where they are called: every model and every answer shares one program.
_generate = jax.jit(
    generate,
    static_argnums=0,
    static_argnames=("max_new_tokens", "stop_id", "pad_id", "temperature"),
)
_score = jax.jit(lambda score, params, rollout: score(params, rollout), static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _divergence(model, params, reference, rollout, temperature):
    """Sums over each answer: log-ratio to the reference, and entropy."""
    logprobs_BC, entropy_BC = completion_logprobs(model, params, rollout, temperature)
    reference_BC, _ = completion_logprobs(model, reference, rollout, temperature)
    return jnp.sum(logprobs_BC - reference_BC, 1), jnp.sum(entropy_BC, 1)


def _answers(rollout: Rollout, tokenizer: Tokenizer) -> Answers:
    return Answers(rollout, completion_texts(rollout, tokenizer), rollout.stopped_B.tolist())


def ranking_accuracies(
    model: ModelConfig, scorer: dict, rows: Comparisons, mesh: Mesh, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """1.0, 0.5 (equal scores) or 0.0 for every comparison of `rows`, and the row that it is of.

    Returns:
      float64 and int, (pairs,) each.
    """
    batch_size += -batch_size % rules.shards(mesh, "batch")
    rows = pad_rows(rows, batch_size)
    scores_of = jax.jit(functools.partial(score_comparisons, model))
    batches = pipeline.in_order(rows, batch_size, mesh)
    scores_NK = np.concatenate(distributed.fetch([scores_of(scorer, batch) for batch in batches]))
    ranks_NK = rows.ranks_BK
    n, i, j = np.nonzero(
        (ranks_NK[:, :, None] < ranks_NK[:, None, :]) & (ranks_NK[:, :, None] >= 0)
    )
    return np.sign(scores_NK[n, i] - scores_NK[n, j]) / 2.0 + 0.5, n


def _batches(bundle, mesh: Mesh):
    """All rows on the mesh, some at a time; the last row is repeated up to whole batches, since an
    empty one could not be sampled from."""
    size = BATCH + -BATCH % rules.shards(mesh, "batch")
    missing = -len(jax.tree.leaves(bundle)[0]) % size
    whole = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, 0)]), bundle)
    return pipeline.in_order(whole, size, mesh)


def _join(parts, n: int):
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *distributed.fetch(parts))

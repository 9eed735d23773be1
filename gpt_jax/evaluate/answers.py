"""Answers behind prompts, as models read them: their rewards, and their distance from a policy."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.data.batches import Prompts, empty_tokens, put
from gpt_jax.generate.sampler import Rollout
from gpt_jax.generate.text import Completion
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import distributed, rules
from gpt_jax.rl.rewards import HostReward, Reward
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.text.tokenizer import Tokenizer

BATCH = 128  # rows per compiled call, at least


def behind(
    prompts: Prompts, completions: Sequence[Completion], tokenizer: Tokenizer, length: int
) -> Rollout:
    """Completions behind prompts, as a reward model or another policy reads them.

    The prompts need not be those that were asked: a base model is asked in another layout. An
    answer that a stop string ended gets the stop token that ends an answer here.

    Args:
      prompts: N of them.
      completions: N answers, one to each.
      tokenizer: of both.
      length: the most tokens of an answer.

    Returns:
      A Rollout of NumPy arrays with N rows.
    """
    tokens_BC = empty_tokens((len(completions), length), tokenizer.pad_id)
    logprobs_BC = np.zeros(tokens_BC.ids.shape, np.float32)
    lengths_B = (prompts.tokens_BP.segment_ids > 0).sum(axis=1)
    for b, completion in enumerate(completions):
        ended = [tokenizer.eos_id] * (completion.finish_reason == "stop_string")
        ids = (completion.tokens + ended)[:length]
        put(tokens_BC, np.s_[b, : len(ids)], ids)
        tokens_BC.positions[b, : len(ids)] += lengths_B[b]
        logprobs_BC[b, : len(completion.logprobs)] = completion.logprobs
    return Rollout(
        prompt_BP=prompts.tokens_BP,
        completion_BC=tokens_BC,
        logprobs_BC=logprobs_BC,
        stopped_B=np.array([completion.stopped for completion in completions]),
        rows_B=prompts.rows_B,
    )


def score(rollout: Rollout, reward: Reward, mesh: Mesh) -> np.ndarray:
    """The reward of every answer, float32 (N,)."""
    if isinstance(reward, HostReward):
        return reward(rollout)
    parts = [_score(reward.score, reward.params, batch) for batch in _batches(rollout, mesh)]
    return _join(parts, len(rollout.stopped_B))


def divergences(
    model: ModelConfig,
    params: dict,
    reference: dict,
    rollout: Rollout,
    temperature: float,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """log p - log p_ref of every answer of the policy, whose mean estimates KL(policy || reference)
    in nats (k1), and the sum of the policy's entropies over its tokens, float32 (N,) each."""
    parts = [
        _divergence(model, params, reference, batch, temperature)
        for batch in _batches(rollout, mesh)
    ]
    return _join(parts, len(rollout.stopped_B))


def divergence(
    model: ModelConfig,
    params: dict,
    reference: dict,
    rollout: Rollout,
    temperature: float,
    mesh: Mesh,
) -> dict[str, float]:
    """KL(policy || reference) in nats per answer and the policy's entropy per token."""
    kl_N, entropy_N = divergences(model, params, reference, rollout, temperature, mesh)
    tokens = float(rollout.mask_BC.sum())
    return {"kl": float(kl_N.mean()), "entropy": float(entropy_N.sum()) / tokens}


# Jitted here, not where it is called: every model and every answer shares one program.
_score = jax.jit(lambda score, params, rollout: score(params, rollout), static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _divergence(model, params, reference, rollout, temperature):
    """Sums over each answer: log-ratio to the reference, and entropy."""
    logprobs_BC, entropy_BC = completion_logprobs(model, params, rollout, temperature)
    reference_BC, _ = completion_logprobs(model, reference, rollout, temperature)
    return jnp.sum(logprobs_BC - reference_BC, 1), jnp.sum(entropy_BC, 1)


def _batches(bundle, mesh: Mesh):
    """All rows on the mesh, some at a time; the last row is repeated up to whole batches, since an
    empty one could not be sampled from."""
    size = BATCH + -BATCH % rules.shards(mesh, "batch")
    missing = -len(jax.tree.leaves(bundle)[0]) % size
    whole = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, 0)]), bundle)
    return pipeline.in_order(whole, size, mesh)


def _join(parts, n: int):
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *distributed.fetch(parts))

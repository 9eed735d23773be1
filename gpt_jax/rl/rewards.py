"""Rewards: `reward(rollout) -> scores_B`, float32, be it a model, a rule, a verifier or a sum.

A reward that is a pure JAX function is wrapped in `jax.tree_util.Partial`, so that its parameters
travel as arguments and the whole PPO iteration is one program. Any other callable runs on the
host, between the program that samples and the program that learns.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import score_last_token
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

Reward = Callable[[Rollout], jax.Array]


def model_reward(model: ModelConfig, scorer: dict) -> Reward:
    """A trained reward model as a pure reward."""

    def score(scorer: dict, rollout: Rollout) -> jax.Array:
        return score_last_token(
            model, scorer, rollout.tokens_BT, rollout.positions_BT, rollout.segment_ids_BT
        )

    return Partial(score, scorer)


def text_reward(rule: Callable[[list[int], str, bool], float], tokenizer: Tokenizer) -> Reward:
    """A host reward: `rule(prompt_ids, completion_text, stopped) -> float` for every row."""

    def score(rollout: Rollout) -> np.ndarray:
        return np.array(
            [
                rule(ids, chat.read(completion, tokenizer), stopped)
                for ids, completion, stopped in split_rows(rollout)
            ],
            np.float32,
        )

    return score


def split_rows(rollout: Rollout) -> list[tuple[list[int], list[int], bool]]:
    """A rollout on the host as (prompt ids, completion ids, stopped) per row, padding removed."""
    width = rollout.tokens_BT.shape[1] - rollout.mask_BC.shape[1]
    rows = []
    for b in range(len(rollout.tokens_BT)):
        prompt = rollout.tokens_BT[b, :width][rollout.segment_ids_BT[b, :width] > 0]
        completion = rollout.tokens_BT[b, width:][rollout.mask_BC[b] > 0]
        rows.append((prompt.tolist(), completion.tolist(), bool(rollout.stopped_B[b])))
    return rows


def token_rewards(
    scores_B: jax.Array, kl_BC: jax.Array, mask_BC: jax.Array, kl_coef: jax.Array
) -> jax.Array:
    """-kl_coef * KL at every token, plus the score at the last (Ouyang et al. 2022, eq. 2).

    Everything is float32: a score of 0.7 stays 0.7.
    """
    last_B = jnp.sum(mask_BC, axis=1).astype(jnp.int32) - 1
    at_last_BC = jax.nn.one_hot(last_B, mask_BC.shape[1], dtype=jnp.float32)
    return -kl_coef * kl_BC * mask_BC + scores_B.astype(jnp.float32)[:, None] * at_last_BC

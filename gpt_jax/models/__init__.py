"""The decoder and its heads, as pure functions of (config, parameters, arrays)."""

from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import (
    init_scalar_head,
    init_scorer,
    last_logits,
    scalar_head,
    score_last_token,
    score_tokens,
    token_logprobs,
    token_nll,
)
from gpt_jax.models.transformer import KVCache, forward, init

__all__ = [
    "KVCache",
    "ModelConfig",
    "forward",
    "init",
    "init_scalar_head",
    "init_scorer",
    "last_logits",
    "scalar_head",
    "score_last_token",
    "score_tokens",
    "token_logprobs",
    "token_nll",
]

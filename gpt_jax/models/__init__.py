"""Models and their heads, as pure functions of (model, parameters, arrays)."""

from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import (
    Model,
    forward,
    init,
    init_cache,
    logical_axes,
    param_shapes,
    unembedding,
)
from gpt_jax.models.heads import (
    axes_of,
    init_scalar_head,
    init_scorer,
    last_logits,
    scalar_head,
    score_last_token,
    score_tokens,
    token_logprobs,
    token_nll,
)
from gpt_jax.models.transformer import KVCache

__all__ = [
    "KVCache",
    "Model",
    "ModelConfig",
    "axes_of",
    "forward",
    "init",
    "init_cache",
    "init_scalar_head",
    "init_scorer",
    "last_logits",
    "logical_axes",
    "param_shapes",
    "scalar_head",
    "score_last_token",
    "score_tokens",
    "token_logprobs",
    "token_nll",
    "unembedding",
]

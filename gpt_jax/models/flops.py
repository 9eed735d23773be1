"""The closed formula of what a model costs: 6 N per token and the attention beside it.

Every weight of a matrix is used in one multiply-add per token going forward and two going
backward, so training costs 6 FLOPs per weight and token; a pair of a query and a key it may read
costs 4 N H FLOPs in a layer going forward (scores and mixing), 12 N H in training (Kaplan et al.
2020, table 1; Chowdhery et al. 2022, appendix B, who count the hidden half of the pairs too).
"""

from gpt_jax.models.config import ModelConfig


def matmul_weights(config: ModelConfig) -> int:
    """Weights that every token is multiplied with: all matrices, the unembedding included.

    The embedding is a look-up and counts only where it is the unembedding too.
    """
    c = config.resolved()
    attention = c.width * c.head_size * (2 * c.heads + 2 * c.kv_heads)
    mlp = (3 if c.gated else 2) * c.width * c.mlp_width
    return c.layers * (attention + mlp) + c.width * c.vocab_size


def visible_pairs(length: int, window: int | None = None) -> int:
    """Pairs of a query and a key that it may read, causal, in one row of one segment."""
    seen = min(length, window or length)
    return seen * (seen + 1) // 2 + (length - seen) * seen


def forward_flops(
    config: ModelConfig, length: int, pairs: float | None = None, logits: int | None = None
) -> float:
    """Of one row of `length` tokens.

    Args:
      config: the model.
      length: tokens.
      pairs: summed over layers, the pairs that attention works on; None: those that are visible.
      logits: the tokens whose successor is predicted; None: all.
    """
    if pairs is None:
        pairs = sum(visible_pairs(length, window) for window in config.windows())
    c = config.resolved()
    unembedding = c.width * c.vocab_size
    body = 2.0 * (matmul_weights(c) - unembedding) * length
    logits = length if logits is None else logits
    return body + 2.0 * unembedding * logits + 4.0 * c.heads * c.head_size * pairs


def training_flops(config: ModelConfig, length: int, pairs: float | None = None) -> float:
    """Of one row of `length` tokens, forward and backward: three times the forward pass."""
    return 3.0 * forward_flops(config, length, pairs)

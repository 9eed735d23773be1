"""The one public linear-cross-entropy function; `reference.py` is its specification."""

from typing import Literal

import jax

from gpt_jax.kernels.linear_cross_entropy import reference, xla

Implementation = Literal["reference", "xla"]


def linear_cross_entropy(
    hidden_MD: jax.Array,
    unembed_VD: jax.Array,
    targets_M: jax.Array,
    *,
    temperature: float = 1.0,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the targets, and entropies, of softmax(hidden unembed^T / temperature).

    Args:
      hidden_MD: one row per token, float32 or bfloat16.
      unembed_VD: the unembedding, same dtype.
      targets_M: int32 in [0, V).
      temperature: positive; divides the logits.
      implementation: "reference" (plain float32), "xla" (in chunks of tokens when M x V is
        large, so that memory does not grow with it), None (the fastest here: "xla").

    Returns:
      (logprobs_M, entropy_M), float32, in nats. Both are differentiable in hidden and unembed.
    """
    function = reference if implementation == "reference" else xla
    return function.linear_cross_entropy(hidden_MD, unembed_VD, targets_M, temperature)

"""From hidden states and the unembedding to log-probabilities, without keeping the logits."""

from gpt_jax.kernels.linear_cross_entropy.api import linear_cross_entropy, linear_cross_entropy_sum

__all__ = ["linear_cross_entropy", "linear_cross_entropy_sum"]

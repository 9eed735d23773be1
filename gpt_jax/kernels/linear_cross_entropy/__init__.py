"""From hidden states and the unembedding to log-probabilities, without keeping the logits."""

from gpt_jax.kernels.linear_cross_entropy.api import linear_cross_entropy

__all__ = ["linear_cross_entropy"]

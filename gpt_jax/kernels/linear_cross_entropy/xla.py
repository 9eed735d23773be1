"""Linear cross-entropy for any device: chunks of tokens, recomputed in the backward pass."""

import jax
import jax.numpy as jnp

# The most logits that may live at once (float32: 128 MiB). Below it one chunk is fastest.
MAX_LOGITS = 2**25


def linear_cross_entropy(hidden_MD, unembed_VD, targets_M, temperature):
    """See `api.linear_cross_entropy`."""
    M, D = hidden_MD.shape
    V = unembed_VD.shape[0]
    chunks = -(-M * V // MAX_LOGITS)
    if chunks <= 1:
        return _one_chunk(hidden_MD, unembed_VD, targets_M, temperature)

    size = -(-M // chunks)
    padding = chunks * size - M
    hidden_CMD = jnp.pad(hidden_MD, ((0, padding), (0, 0))).reshape(chunks, size, D)
    targets_CM = jnp.pad(targets_M, (0, padding)).reshape(chunks, size)

    # Without checkpoint the scan would keep every chunk's logits for the backward pass.
    @jax.checkpoint
    def chunk(hidden_MD, targets_M):
        return _one_chunk(hidden_MD, unembed_VD, targets_M, temperature)

    logprobs_CM, entropy_CM = jax.lax.map(lambda args: chunk(*args), (hidden_CMD, targets_CM))
    return logprobs_CM.reshape(-1)[:M], entropy_CM.reshape(-1)[:M]


def _one_chunk(hidden_MD, unembed_VD, targets_M, temperature):
    # Transposed behind a barrier: the gradient is then hidden^T g, whose narrow operand XLA's CPU
    # backend copies, and not g^T hidden, whose V columns it would.
    unembed_DV = jax.lax.optimization_barrier(unembed_VD.T)
    logits_MV = jnp.einsum("MD,DV->MV", hidden_MD, unembed_DV, preferred_element_type=jnp.float32)
    logits_MV = logits_MV / temperature
    max_M1 = jax.lax.stop_gradient(logits_MV.max(axis=-1, keepdims=True))
    shifted_MV = logits_MV - max_M1
    exp_MV = jnp.exp(shifted_MV)
    sum_M = exp_MV.sum(axis=-1)
    lse_M = jnp.log(sum_M)
    # A select instead of a gather: its gradient is a select too, not a scatter.
    is_target_MV = jnp.arange(unembed_VD.shape[0]) == targets_M[:, None]
    logprobs_M = jnp.where(is_target_MV, shifted_MV, 0.0).sum(axis=-1) - lse_M
    entropy_M = lse_M - (exp_MV * shifted_MV).sum(axis=-1) / sum_M
    return logprobs_M, entropy_M

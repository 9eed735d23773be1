"""Linear cross-entropy as a specification: float32, all logits at once."""

import jax
import jax.numpy as jnp


def linear_cross_entropy(hidden_MD, unembed_VD, targets_M, temperature=1.0, softcap=None):
    """See `api.linear_cross_entropy`."""
    hidden, unembed = hidden_MD.astype(jnp.float32), unembed_VD.astype(jnp.float32)
    logits_MV = jnp.einsum("...D,VD->...V", hidden, unembed, precision="highest")
    if softcap is not None:
        logits_MV = softcap * jnp.tanh(logits_MV / softcap)
    logits_MV = logits_MV / temperature
    logp_MV = jax.nn.log_softmax(logits_MV, axis=-1)
    logprobs_M = jnp.take_along_axis(logp_MV, targets_M[..., None], axis=-1)[..., 0]
    entropy_M = -jnp.sum(jnp.exp(logp_MV) * logp_MV, axis=-1)
    return logprobs_M, jax.nn.logsumexp(logits_MV, axis=-1), entropy_M

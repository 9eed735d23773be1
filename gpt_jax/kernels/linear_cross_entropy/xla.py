"""Linear cross-entropy for any device, in chunks: no M x V array lives when that is large.

With scores s = h U^T and logits z = softcap tanh(s / softcap) / temperature, per token:

    lse = log sum_v exp z_v      log p_v = z_v - lse      entropy = -sum_v p_v log p_v

A loss with the cotangents (a, b, c) of (log p_target, lse, entropy) has the gradients

    dz_v = a [v = target] + p_v (b - a - c (log p_v + entropy))
    ds   = dz (1 - (temperature z / softcap)^2) / temperature      dh = ds U      dU = ds^T h

`gradients` forms them a chunk of the vocabulary at a time and computes the chunk's logits again:
four matmuls with the one of `statistics`. Where the loss is sum(-w log p_target) and w is known,
`nll_and_gradients` forms them a chunk of tokens at a time while the logits are there: three
matmuls, as many as without chunks (Hsu et al. 2024, "Liger Kernel", section 3.2).

lse is kept as two numbers, the largest logit and log sum_v exp(z_v - largest): their sum would
lose the digits of the small one where logits are large.

A float32 sum dU whose result is bfloat16 is kept as its upper and its lower 16 bits: the same sum
to the last bit, and the upper half turns into the result, so that only the lower is scratch memory.
"""

import jax
import jax.numpy as jnp

from gpt_jax.parallel.mesh import platform

# Up to this many logits (float32: 128 MiB) are held all at once, and kept for the backward pass.
FEW_LOGITS = 2**25
# Vocabulary or tokens per chunk. A chunk reads and writes a float32 sum as large as its other
# operand, which takes as long as the matmul that makes it at 4 x flops / bandwidth rows: 660 on a
# v5p, 960 on a v5e, 500 on an H200 whose matmuls reach 60% of the peak. More rows cost memory.
COLUMNS, ROWS, ROWS_ON_GPU = 2048, 1024, 512
HALVES_ROWS = 1024  # Rows of a sum in halves that are added to at once; float32, D 4096: 16 MiB.
HIDDEN = -1e30  # The logit of a column that does not count: finite, and its exp is 0.


def few_logits(hidden_MD, unembed_VD, targets_M, temperature, softcap):
    """See `api.linear_cross_entropy`: without chunks, differentiated by JAX."""
    # Transposed behind a barrier: the gradient is then hidden^T g, whose narrow operand XLA's CPU
    # backend copies, and not g^T hidden, whose V columns it would.
    unembed_DV = jax.lax.optimization_barrier(unembed_VD.astype(hidden_MD.dtype).T)
    logits_MV = jnp.einsum("MD,DV->MV", hidden_MD, unembed_DV, preferred_element_type=jnp.float32)
    logits_MV = _squash(logits_MV, temperature, softcap)
    max_M1 = jax.lax.stop_gradient(logits_MV.max(axis=1, keepdims=True))
    shifted_MV = logits_MV - max_M1
    exp_MV = jnp.exp(shifted_MV)
    sum_M = exp_MV.sum(axis=1)
    logsum_M = jnp.log(sum_M)
    # A select instead of a gather: its gradient is a select too, not a scatter.
    target_M = jnp.where(_is_target(logits_MV, targets_M), shifted_MV, 0.0).sum(axis=1)
    entropy_M = logsum_M - (exp_MV * shifted_MV).sum(axis=1) / sum_M
    return target_M - logsum_M, max_M1[:, 0] + logsum_M, entropy_M


def statistics(hidden_MD, unembed_VD, targets_M, temperature, softcap):
    """Per token the target's logit, the largest, log sum exp(logit - largest), and the entropy.

    A target outside [0, V) has the logit 0: it is in another shard of the vocabulary.

    Returns:
      (target_M, max_M, logsum_M, entropy_M), float32.
    """

    def chunk(index, so_far):
        _, unembed_CD, hidden_C, targets = _vocabulary_chunk(unembed_VD, targets_M, index)
        logits_MC = _logits(hidden_MD, unembed_CD, temperature, softcap)
        these = _statistics(jnp.where(hidden_C, HIDDEN, logits_MC), targets)
        return combine(jax.tree.map(lambda *x: jnp.stack(x), so_far, these))

    zeros_M = jnp.zeros(hidden_MD.shape[0])
    nothing = zeros_M, zeros_M + HIDDEN, zeros_M, zeros_M
    return jax.lax.fori_loop(0, _vocabulary_chunks(unembed_VD), chunk, nothing)


def combine(statistics_PM):
    """The statistics of a vocabulary from those of its parts, stacked on the first axis.

    Its entropy is that of which part the token is in, plus the mean of the parts' own.
    """
    target_PM, max_PM, logsum_PM, entropy_PM = statistics_PM
    max_M = max_PM.max(axis=0)
    lse_PM = max_PM - max_M + logsum_PM
    logsum_M = jax.nn.logsumexp(lse_PM, axis=0)
    logp_PM = lse_PM - logsum_M
    entropy_M = jnp.sum(jnp.exp(logp_PM) * (entropy_PM - logp_PM), axis=0)
    return target_PM.sum(axis=0), max_M, logsum_M, entropy_M


def gradients(
    hidden_MD, unembed_VD, targets_M, normalizer, cotangents, dtype, temperature, softcap
):
    """dh_MD (float32) and dU_VD (of dtype `dtype`) of any function of the statistics.

    Args:
      normalizer: (max_M, logsum_M) of the whole vocabulary.
      cotangents: (hit_M, p_M, plogp_M): dz = hit [v = target] + p (p_M + plogp_M log p).
    """
    score_gradients = _score_gradients(normalizer, cotangents, temperature, softcap)

    def chunk(index, sums):
        dh_MD, dU_VD = sums
        start, unembed_CD, hidden_C, targets = _vocabulary_chunk(unembed_VD, targets_M, index)
        logits_MC = _logits(hidden_MD, unembed_CD, temperature, softcap)
        ds_MC = jnp.where(hidden_C, 0.0, score_gradients(logits_MC, targets))
        ds_MC = ds_MC.astype(hidden_MD.dtype)
        # Only the last chunk repeats rows of the one before, and adds 0 to them.
        dU_CD = jax.lax.dynamic_slice_in_dim(dU_VD, start, len(unembed_CD))
        dU_CD += _unembed_gradient(ds_MC, hidden_MD).astype(dtype)
        dU_VD = jax.lax.dynamic_update_slice_in_dim(dU_VD, dU_CD, start, axis=0)
        return dh_MD + _hidden_gradient(ds_MC, unembed_CD), dU_VD

    zeros = jnp.zeros(hidden_MD.shape, jnp.float32), jnp.zeros(unembed_VD.shape, dtype)
    return jax.lax.fori_loop(0, _vocabulary_chunks(unembed_VD), chunk, zeros)


def nll_and_gradients(
    hidden_MD, unembed_VD, targets_M, weights_M, combine_shards, dtype, temperature, softcap
):
    """nll_M = -log p_target, and dh_MD and dU_VD (of dtype `dtype`) of sum(weights nll).

    `combine_shards` turns the statistics of this shard of the vocabulary into those of the whole.
    """
    M, D = hidden_MD.shape
    unembed_VD = unembed_VD.astype(hidden_MD.dtype)  # once, not in every chunk
    chunks = -(-M // (ROWS_ON_GPU if platform() == "gpu" else ROWS))
    size = -(-M // chunks)

    def deal(x):
        padding = [(0, chunks * size - M)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(chunks, size, *x.shape[1:])

    # XLA's TPU compiler holds more with two halves than it does with the one sum.
    in_halves = dtype == jnp.bfloat16 and platform() != "tpu"

    def chunk(dU_VD, rows):
        hidden_MD, targets_M, weights_M = rows
        logits_MV = _logits(hidden_MD, unembed_VD, temperature, softcap)
        target_M, max_M, logsum_M, _ = combine_shards(_statistics(logits_MV, targets_M))
        cotangents = (-weights_M, weights_M, None)
        score_gradients = _score_gradients((max_M, logsum_M), cotangents, temperature, softcap)
        ds_MV = score_gradients(logits_MV, targets_M).astype(hidden_MD.dtype)
        if in_halves:
            dU_VD = _add_to_halves(dU_VD, ds_MV, hidden_MD)
        else:
            dU_VD += _unembed_gradient(ds_MV, hidden_MD)
        dh_MD = _hidden_gradient(ds_MV, unembed_VD).astype(hidden_MD.dtype)
        return dU_VD, (logsum_M - (target_M - max_M), dh_MD)

    rows = tuple(deal(x) for x in (hidden_MD, targets_M, weights_M))
    dU_VD = jnp.zeros(unembed_VD.shape, jnp.float32)
    dU_VD, (nll_CM, dh_CMD) = jax.lax.scan(chunk, _halves(dU_VD) if in_halves else dU_VD, rows)
    dU_VD = (_joined(*dU_VD) if in_halves else dU_VD).astype(dtype)
    return nll_CM.reshape(-1)[:M], dh_CMD.reshape(-1, D)[:M], dU_VD


def _add_to_halves(halves_VD, ds_MV, hidden_MD):
    """The halves of their sum and ds^T h, a slice of the vocabulary at a time.

    Adding a product to a float32 sum is one operation, but adding it to halves writes it down
    first: at this size it stays in the cache (H200: 50 MiB).
    """

    def add(start, halves_VD, size):
        halves_CD = [jax.lax.dynamic_slice_in_dim(x, start, size) for x in halves_VD]
        ds_MC = jax.lax.dynamic_slice_in_dim(ds_MV, start, size, axis=1)
        halves_CD = _halves(_joined(*halves_CD) + _unembed_gradient(ds_MC, hidden_MD))
        # The barrier: both are there before either is written, so that XLA writes in place.
        halves_CD = jax.lax.optimization_barrier(halves_CD)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0)
            for old, new in zip(halves_VD, halves_CD, strict=True)
        )

    V = ds_MV.shape[1]
    size = min(HALVES_ROWS, V)
    halves_VD = jax.lax.fori_loop(0, V // size, lambda i, x: add(i * size, x, size), halves_VD)
    return add(V - V % size, halves_VD, V % size) if V % size else halves_VD


def _halves(sum_VD):
    """(the upper 16 bits of a float32 array as bfloat16, the lower ones as uint16)."""
    bits = jax.lax.bitcast_convert_type(sum_VD, jnp.uint32)
    upper = (bits >> 16).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(upper, jnp.bfloat16), bits.astype(jnp.uint16)


def _joined(upper_VD, lower_VD):
    upper = jax.lax.bitcast_convert_type(upper_VD, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(upper << 16 | lower_VD, jnp.float32)


def _vocabulary_chunks(unembed_VD):
    return -(-unembed_VD.shape[0] // COLUMNS)


def _vocabulary_chunk(unembed_VD, targets_M, index):
    """Rows of the unembedding from `start`, which of them were in the chunk before, and targets.

    The last chunk is moved back so that it is full.
    """
    size = min(COLUMNS, unembed_VD.shape[0])
    start = jnp.minimum(index * size, unembed_VD.shape[0] - size)
    # The barrier keeps XLA from casting the whole unembedding before the loop (but for TPUs).
    unembed_CD = jax.lax.optimization_barrier(jax.lax.dynamic_slice_in_dim(unembed_VD, start, size))
    hidden_C = start + jnp.arange(size) < index * size
    targets_M = jnp.where(targets_M < index * size, -1, targets_M - start)
    return start, unembed_CD, hidden_C, targets_M


def _logits(hidden_MD, unembed_VD, temperature, softcap):
    unembed_VD = unembed_VD.astype(hidden_MD.dtype)
    scores_MV = jnp.einsum("MD,VD->MV", hidden_MD, unembed_VD, preferred_element_type=jnp.float32)
    return _squash(scores_MV, temperature, softcap)


def _squash(scores_MV, temperature, softcap):
    if softcap is not None:
        scores_MV = softcap * jnp.tanh(scores_MV / softcap)
    return scores_MV / temperature


def _statistics(logits_MV, targets_M):
    max_M = logits_MV.max(axis=1)
    shifted_MV = logits_MV - max_M[:, None]
    exp_MV = jnp.exp(shifted_MV)
    sum_M = exp_MV.sum(axis=1)
    logsum_M = jnp.log(sum_M)
    entropy_M = logsum_M - (exp_MV * shifted_MV).sum(axis=1) / sum_M
    target_M = jnp.where(_is_target(logits_MV, targets_M), logits_MV, 0.0).sum(axis=1)
    return target_M, max_M, logsum_M, entropy_M


def _is_target(logits_MV, targets_M):
    return jnp.arange(logits_MV.shape[1]) == targets_M[:, None]


def _score_gradients(normalizer, cotangents, temperature, softcap):
    """The function (logits_MV, targets_M) -> ds_MV; see the top of this file."""
    max_M, logsum_M = normalizer
    hit_M, p_M, plogp_M = cotangents

    def score_gradients(logits_MV, targets_M):
        logp_MV = (logits_MV - max_M[:, None]) - logsum_M[:, None]
        factor_MV = p_M[:, None]
        if plogp_M is not None:
            factor_MV = factor_MV + plogp_M[:, None] * logp_MV
        hit_MV = jnp.where(_is_target(logits_MV, targets_M), hit_M[:, None], 0.0)
        dz_MV = hit_MV + jnp.exp(logp_MV) * factor_MV
        if softcap is not None:
            dz_MV *= 1.0 - (logits_MV * (temperature / softcap)) ** 2
        return dz_MV / temperature

    return score_gradients


def _hidden_gradient(ds_MV, unembed_VD):
    unembed_VD = unembed_VD.astype(ds_MV.dtype)
    return jnp.einsum("MV,VD->MD", ds_MV, unembed_VD, preferred_element_type=jnp.float32)


def _unembed_gradient(ds_MV, hidden_MD):
    """ds^T h, float32; on a CPU as (h^T ds)^T: XLA copies a transposed operand, h is the narrow."""

    def plain(ds_MV, hidden_MD):
        return jnp.einsum("MV,MD->VD", ds_MV, hidden_MD, preferred_element_type=jnp.float32)

    def transposed(ds_MV, hidden_MD):
        dU_DV = jnp.einsum("MD,MV->DV", hidden_MD, ds_MV, preferred_element_type=jnp.float32)
        return jax.lax.optimization_barrier(dU_DV).T

    return jax.lax.platform_dependent(ds_MV, hidden_MD, cpu=transposed, default=plain)

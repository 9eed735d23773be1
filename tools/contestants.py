"""What a user would take instead of our kernels, to be timed beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def unfused_logprobs(hidden_MD, unembed_VD, targets_M):
    """Log-probabilities by way of all M x V logits."""
    logits_MV = jnp.einsum("MD,VD->MV", hidden_MD, unembed_VD, preferred_element_type=jnp.float32)
    logp_MV = jax.nn.log_softmax(logits_MV)
    return jnp.take_along_axis(logp_MV, targets_M[:, None], axis=1)[:, 0]


def pallas_ops(q_BTNH, k_BTKH, v_BTKH):
    """The attention kernel that comes with JAX, causal; it knows no grouped heads."""
    from jax.experimental.pallas.ops.gpu.attention import mha

    group, H = q_BTNH.shape[2] // k_BTKH.shape[2], q_BTNH.shape[3]
    k_BTNH, v_BTNH = (jnp.repeat(x, group, axis=2) for x in (k_BTKH, v_BTKH))
    return mha(q_BTNH, k_BTNH, v_BTNH, segment_ids=None, sm_scale=H**-0.5, causal=True)


def jax_nn(**options) -> dict[str, Callable]:
    function = functools.partial(jax.nn.dot_product_attention, **options)
    return {
        f"jax.nn, {name}": functools.partial(function, implementation=name)
        for name in ("cudnn", "xla")
    }


def torch_attention(q, k, v, dout, causal: bool) -> tuple[Callable, Callable]:
    """PyTorch's attention on the same numbers: forward, and with gradients."""

    @functools.cache
    def tensors():
        import torch

        platform = jax.default_backend()
        if not (platform == "cpu" or (platform == "gpu" and torch.cuda.is_available())):
            raise RuntimeError(f"this PyTorch does not reach the {platform}")
        how = {"dtype": getattr(torch, q.dtype.name), "device": {"gpu": "cuda"}.get(platform)}
        arrays = [np.asarray(x, np.float32) for x in (q, k, v, dout)]
        return [torch.tensor(x, **how).transpose(1, 2).requires_grad_() for x in arrays]

    def attend(q, k, v):
        from torch.nn.functional import scaled_dot_product_attention

        grouped = q.shape[1] != k.shape[1]
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    def forward(*_):
        return attend(*(x.detach() for x in tensors()[:3])).transpose(1, 2)

    def both(*_):
        import torch

        *inputs, dout = tensors()
        out = attend(*inputs)
        gradients = torch.autograd.grad(out, inputs, dout)
        return tuple(x.detach().transpose(1, 2) for x in (out, *gradients))

    return forward, both

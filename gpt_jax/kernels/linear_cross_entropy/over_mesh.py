"""Linear cross-entropy where a mesh shards tokens, vocabulary and width.

Each device computes its tokens against its shard of the vocabulary, so the op's chunks are chunks
of what one device has, and no logits travel. Per call:

    unembedding             gathered over the axes of its width, once, in the dtype of hidden
    statistics              of a token over its shards of the vocabulary: 4 numbers each, combined
    hidden's gradient       summed over the shards of the vocabulary
    unembedding's gradient  summed over the shards of the tokens, once (in float32 where it is
                            formed in the forward pass, else in the dtype of the unembedding)

Without a mesh everything is the one device's and nothing travels at all.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt_jax.kernels.linear_cross_entropy.xla import combine
from gpt_jax.parallel import rules


class Layout(NamedTuple):
    """Mesh axes of each axis of the targets (M, or B and T), and of the unembedding's V and D."""

    targets: tuple[tuple[str, ...], ...] = ()
    vocab: tuple[str, ...] = ()
    width: tuple[str, ...] = ()


def layout_of(targets_M: jax.Array, unembed_VD: jax.Array) -> Layout:
    """How the rules shard the operands over the mesh in use.

    A length that the mesh does not divide stays whole. Without a mesh, or if it does not divide
    another axis, the layout is empty: then there is one device, or XLA partitions as it can.
    """
    if one_device():
        return Layout()
    mesh = jax.sharding.get_abstract_mesh()
    names = (*("batch", "length")[: targets_M.ndim], "vocab", "width")
    fit = rules.fitting(mesh, (*targets_M.shape, *unembed_VD.shape), names)
    if not {"batch", "vocab", "width"} <= set(fit):
        return Layout()
    *targets, vocab, width = (
        tuple(axis for axis in rules.MESH_AXES.get(name, ()) if mesh.shape[axis] > 1)
        for name in fit
    )
    return Layout(tuple(targets), vocab, width)


def one_device() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def statistics(compute, layout: Layout, hidden_MD, unembed_VD, targets_M):
    """`compute(hidden_MD, unembed_VD, targets_M) -> statistics_M` on every device.

    Returns the statistics of all tokens over the whole vocabulary, shaped as the targets are.
    """

    def local(hidden_MD, unembed_VD, targets_M):
        unembed_VD = _whole_width(unembed_VD, hidden_MD.dtype, layout)
        targets = _in_shard(targets_M, unembed_VD, layout)
        statistics_M = combine_shards(compute(_flat(hidden_MD), unembed_VD, targets), layout)
        return tuple(x.reshape(targets_M.shape) for x in statistics_M)

    rows, hidden, unembed = _specs(layout)
    return _spread(local, layout, (hidden, unembed, rows), rows)(hidden_MD, unembed_VD, targets_M)


def gradients(compute, layout: Layout, hidden_MD, unembed_VD, targets_M, columns_M):
    """`compute(hidden, unembed, targets, *columns) -> (dh_MD, dU_VD)` on every device.

    `columns_M` is a tuple of trees of float32 arrays, one number per token.
    """

    def local(hidden_MD, unembed_VD, targets_M, columns_M):
        unembed_VD = _whole_width(unembed_VD, hidden_MD.dtype, layout)
        targets_M = _in_shard(targets_M, unembed_VD, layout)
        columns_M = jax.tree.map(jnp.ravel, columns_M)
        dh_MD, dU_VD = compute(_flat(hidden_MD), unembed_VD, targets_M, *columns_M)
        return _sums(dh_MD, dU_VD, hidden_MD, layout)

    rows, hidden, unembed = _specs(layout)
    return _spread(local, layout, (hidden, unembed, rows, rows), (hidden, unembed))(
        hidden_MD, unembed_VD, targets_M, columns_M
    )


def nll_and_gradients(compute, layout: Layout, hidden_MD, unembed_VD, targets_M, weights_M):
    """`compute(hidden, unembed, targets, weights, combine) -> (nll_M, dh_MD, dU_VD)`, likewise."""

    def local(hidden_MD, unembed_VD, targets_M, weights_M):
        unembed_VD = _whole_width(unembed_VD, hidden_MD.dtype, layout)
        rows = _in_shard(targets_M, unembed_VD, layout), weights_M.ravel()
        nll_M, dh_MD, dU_VD = compute(
            _flat(hidden_MD), unembed_VD, *rows, lambda x: combine_shards(x, layout)
        )
        return nll_M.reshape(targets_M.shape), *_sums(dh_MD, dU_VD, hidden_MD, layout)

    rows, hidden, unembed = _specs(layout)
    return _spread(local, layout, (hidden, unembed, rows, rows), (rows, hidden, unembed))(
        hidden_MD, unembed_VD, targets_M, weights_M
    )


def combine_shards(statistics_M, layout: Layout):
    """The statistics of the whole vocabulary from those of this device's shard."""
    if not layout.vocab:
        return statistics_M
    return combine(jax.lax.all_gather(statistics_M, layout.vocab))


def _whole_width(unembed_VD, dtype, layout):
    if not layout.width:
        return unembed_VD
    return jax.lax.all_gather(unembed_VD.astype(dtype), layout.width, axis=1, tiled=True)


def _in_shard(targets_M, unembed_VD, layout):
    """Targets counted from this device's first row of the unembedding."""
    if layout.vocab:
        targets_M -= jax.lax.axis_index(layout.vocab) * unembed_VD.shape[0]
    return targets_M.ravel()


def _sums(dh_MD, dU_VD, hidden_MD, layout):
    dh_MD = dh_MD.astype(hidden_MD.dtype).reshape(hidden_MD.shape)
    if layout.vocab:
        dh_MD = jax.lax.psum(dh_MD, layout.vocab)
    if layout.width:
        dU_VD = jax.lax.psum_scatter(dU_VD, layout.width, scatter_dimension=1, tiled=True)
    others = tuple(axis for axes in layout.targets for axis in axes if axis not in layout.width)
    return dh_MD, jax.lax.psum(dU_VD, others) if others else dU_VD


def _flat(x_MD):
    return x_MD.reshape(-1, x_MD.shape[-1])


def _specs(layout):
    """Of the targets, the hidden states and the unembedding."""
    rows = PartitionSpec(*layout.targets)
    return rows, PartitionSpec(*layout.targets, None), PartitionSpec(layout.vocab, layout.width)


def _spread(local, layout, in_specs, out_specs):
    if layout == Layout():
        return local
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, check_vma=False)

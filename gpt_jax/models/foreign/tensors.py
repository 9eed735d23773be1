"""The tensors of a checkpoint, name by name: one table for a family, read in either direction.

GPT-2 stores kernels as we do, [in, out]; the others store them [out, in]. Some put several of our
matrices into one of theirs, which is then a matter of which of its outputs are ours:

    GPT-2, Phi-3   q, k and v one after the other; Phi-3's gate and up likewise
    GPT-NeoX       head by head, of each the queries, the keys and the values
    OPT            a table of positions whose first two rows no token reads (they are 0 in what we
                   write)

Gemma stores the scale of a norm minus 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import param_shapes
from gpt_jax.parallel.rules import path_name

Pick = slice | np.ndarray


class Entry(NamedTuple):
    """Where one of our parameters lies.

    Attributes:
      theirs: the name of the tensor, with {} for the number of the layer where there is one for
        each.
      transposed: whether its axes are those of ours in reverse.
      offset: what is added to it to make ours.
      pick: which places of its axis `axis` (counted as in ours) are ours; None: all.
      axis: -1, or 0 for rows.
    """

    theirs: str
    transposed: bool = False
    offset: float = 0.0
    pick: Pick | None = None
    axis: int = -1

    @property
    def stacked(self) -> bool:
        """Whether ours is a stack of one of theirs per layer."""
        return "{}" in self.theirs

    def names(self, layers: int) -> list[str]:
        """Of their tensors, in the order of our layers."""
        return [self.theirs.format(i) for i in range(layers)] if self.stacked else [self.theirs]

    def size(self, ours: int) -> int:
        """How long their axis is at the least, where ours is that long."""
        if self.pick is None:
            return ours
        return self.pick.stop if isinstance(self.pick, slice) else int(self.pick.max()) + 1


class Table(NamedTuple):
    """The names of a family.

    Attributes:
      block: our path inside a block -> their name inside a layer, without its ending, or the pair
        of that name and a function of the configuration that says which part of it is ours.
      whole: the same outside of blocks.
      prefix: of all names but those of heads; files of a bare model lack it.
      layer: how the names inside a layer begin.
      head: their name of the unembedding, without its ending.
      transposed: whether kernels are [out, in].
      norm_offset: what is added to the scale of a norm.
    """

    block: dict[str, str | tuple[str, Callable[[ModelConfig], Pick]]]
    whole: dict[str, str | tuple[str, Callable[[ModelConfig], Pick]]]
    prefix: str = "model."
    layer: str = "layers.{}."
    head: str = "lm_head"
    transposed: bool = True
    norm_offset: float = 0.0


def _slices(part: int) -> Callable[[ModelConfig], Pick]:
    """The queries, keys or values of q, k, v one after the other."""

    def pick(config):
        c = config.resolved()
        sizes = [c.heads * c.head_size, c.kv_heads * c.head_size, c.kv_heads * c.head_size]
        return slice(sum(sizes[:part]), sum(sizes[: part + 1]))

    return pick


def _half(part: int) -> Callable[[ModelConfig], Pick]:
    """The gate (0) or the up (1) of both one after the other."""
    return lambda config: slice(
        part * config.resolved().mlp_width, (part + 1) * config.resolved().mlp_width
    )


def _by_head(part: int) -> Callable[[ModelConfig], Pick]:
    """The queries, keys or values where each head has its three together."""

    def pick(config):
        c = config.resolved()
        rows_N3H = np.arange(3 * c.heads * c.head_size).reshape(c.heads, 3, c.head_size)
        return rows_N3H[:, part].ravel()

    return pick


def _after_two(config: ModelConfig) -> Pick:
    return slice(2, 2 + config.context_length)


LLAMA = Table(
    block={
        "attn_norm": "input_layernorm",
        "attn/q": "self_attn.q_proj",
        "attn/k": "self_attn.k_proj",
        "attn/v": "self_attn.v_proj",
        "attn/out": "self_attn.o_proj",
        "attn/q_norm": "self_attn.q_norm",
        "attn/k_norm": "self_attn.k_norm",
        "mlp_norm": "post_attention_layernorm",
        "mlp/gate": "mlp.gate_proj",
        "mlp/up": "mlp.up_proj",
        "mlp/down": "mlp.down_proj",
    },
    whole={"embed/tokens": "embed_tokens", "final_norm": "norm"},
)
GEMMA = LLAMA._replace(norm_offset=1.0)
# Llama's post_attention_layernorm is not after its attention; Gemma's is.
GEMMA_BOTH = GEMMA._replace(
    block=LLAMA.block
    | {
        "attn_out_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_out_norm": "post_feedforward_layernorm",
    }
)
PHI3 = LLAMA._replace(
    block=LLAMA.block
    | {f"attn/{name}": ("self_attn.qkv_proj", _slices(i)) for i, name in enumerate("qkv")}
    | {f"mlp/{name}": ("mlp.gate_up_proj", _half(i)) for i, name in enumerate(("gate", "up"))}
)
GPT2 = Table(
    block={
        "attn_norm": "ln_1",
        **{f"attn/{name}": ("attn.c_attn", _slices(i)) for i, name in enumerate("qkv")},
        "attn/out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp/up": "mlp.c_fc",
        "mlp/down": "mlp.c_proj",
    },
    whole={"embed/tokens": "wte", "embed/positions": "wpe", "final_norm": "ln_f"},
    prefix="transformer.",
    layer="h.{}.",
    transposed=False,
)
NEOX = Table(
    block={
        "attn_norm": "input_layernorm",
        **{f"attn/{n}": ("attention.query_key_value", _by_head(i)) for i, n in enumerate("qkv")},
        "attn/out": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp/up": "mlp.dense_h_to_4h",
        "mlp/down": "mlp.dense_4h_to_h",
    },
    whole={"embed/tokens": "embed_in", "final_norm": "final_layer_norm"},
    prefix="gpt_neox.",
    head="embed_out",
)
OPT = Table(
    block={
        "attn_norm": "self_attn_layer_norm",
        "attn/q": "self_attn.q_proj",
        "attn/k": "self_attn.k_proj",
        "attn/v": "self_attn.v_proj",
        "attn/out": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "mlp/up": "fc1",
        "mlp/down": "fc2",
    },
    whole={
        "embed/tokens": "decoder.embed_tokens",
        "embed/positions": ("decoder.embed_positions", _after_two),
        "final_norm": "decoder.final_layer_norm",
    },
    layer="decoder.layers.{}.",
)
# llama.cpp's names, the same for all families; it adds 1 to Gemma's norms.
GGUF = Table(
    block={
        "attn_norm": "attn_norm",
        "attn/q": "attn_q",
        "attn/k": "attn_k",
        "attn/v": "attn_v",
        "attn/out": "attn_output",
        "attn/q_norm": "attn_q_norm",
        "attn/k_norm": "attn_k_norm",
        "attn_out_norm": "post_attention_norm",
        "mlp_norm": "ffn_norm",
        "mlp/gate": "ffn_gate",
        "mlp/up": "ffn_up",
        "mlp/down": "ffn_down",
        "mlp_out_norm": "post_ffw_norm",
    },
    whole={"embed/tokens": "token_embd", "final_norm": "output_norm"},
    prefix="",
    layer="blk.{}.",
    head="output",
)

TABLES: dict[str, Table] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": GEMMA,
    "gemma2": GEMMA_BOTH,
    "gemma3_text": GEMMA_BOTH,
    "phi3": PHI3,
    "opt": OPT,
    "gpt_neox": NEOX,
}
SCORE = "score.weight"  # of every ...ForSequenceClassification, [1, D]


def entries(table: Table, config: ModelConfig, prefix: str | None = None) -> dict[str, Entry]:
    """Where every parameter of a language model lies, by our path (`blocks/attn/q`).

    Args:
      table: the family's.
      config: which of the names there are.
      prefix: instead of the table's own.

    Raises:
      UserError: naming a parameter that the family has not.
    """
    prefix = table.prefix if prefix is None else prefix
    found = {}
    for path, shape in jax.tree_util.tree_leaves_with_path(param_shapes(config)):
        ours = path_name(path)
        in_block = ours.startswith("blocks/")
        names = table.block if in_block else table.whole
        part = ours.removeprefix("blocks/")
        # A norm's parameters are its scale and bias; a kernel's bias lies beside it.
        if part.endswith(("/scale", "/bias")):
            key, ending = part.rpartition("/")[0], ".weight" if part.endswith("scale") else ".bias"
        elif part.endswith("_bias"):
            key, ending = part.removesuffix("_bias"), ".bias"
        else:
            key, ending = part, ".weight"
        if ours == "unembed/kernel":
            found[ours] = Entry(table.head + ".weight", transposed=True)
            continue
        if key not in names:
            raise UserError(f"The family has no tensor for our parameter {ours}.")
        name, pick = names[key], None
        if isinstance(name, tuple):
            name, pick = name[0], name[1](config)
        matrix = ending == ".weight" and shape.ndim - in_block == 2
        found[ours] = Entry(
            prefix + (table.layer if in_block else "") + name + ending,
            transposed=table.transposed and matrix and in_block,
            offset=table.norm_offset if part.endswith("/scale") else 0.0,
            pick=pick,
            axis=0 if ours == "embed/positions" else -1,
        )
    return found

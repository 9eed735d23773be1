"""The shape of a decoder-only transformer, as one frozen (hashable) dataclass."""

import dataclasses
from typing import Annotated, Literal

from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, PositiveFloat, Range, check_ranges

Rate = Annotated[float, Range(0.0, 1.0, open_high=True)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What distinguishes GPT-1, GPT-2, GPT-3, Llama, Qwen3 and Gemma 3 from one another.

    A number that is None follows from others. It stays None here, so that a copy with another
    width gets what follows from that width; who computes with it reads it from `resolved()`.

    Attributes:
      vocab_size: V, rows of the embedding.
      context_length: the longest sequence; the rows of a learned position table.
      width: D, the residual stream.
      layers: L.
      heads: N, query heads.
      kv_heads: K, key/value heads; N // K query heads share one. None: N.
      head_size: H. None: D // N.
      mlp_width: F, hidden units of the feed-forward layer. None: 4 D.
      positions: "learned" (GPT), "sinusoidal" (Vaswani et al. 2017) or "rope" (Su et al. 2021).
      norm: "layer" (Ba et al. 2016) or "rms" (Zhang & Sennrich 2019).
      norm_position: "pre" (GPT-2 on; a final norm follows the last block), "post" (GPT-1) or
        "both" (Gemma: what a sublayer reads and what it adds are normed).
      qk_norm: whether queries and keys are normed per head, before rotary positions (Dehghani et
        al. 2023).
      mlp: "gelu" (tanh form, Hendrycks & Gimpel 2016), "swiglu" or "geglu" (Shazeer 2020).
      tied: whether the unembedding is the embedding.
      biases: whether dense layers and layer norms have biases.
      scale_embedding: whether embeddings are multiplied by sqrt(D).
      query_scale: multiplies the attention scores. None: 1 / sqrt(H).
      window: how many keys a query of a local layer sees, its own included. None: all layers are
        global.
      global_every: with a window, every how manyth layer is global (Gemma 3: 6).
      rope_theta: the base of the rotary frequencies.
      rope_divisor: divides the positions before they are rotated (Chen et al. 2023).
      rope_theta_local: the base in local layers, whose positions are not divided.
      norm_eps: added to the variance inside a norm.
      dtype: of the computation; parameters, norms, softmax and logits are float32.
      remat: what the backward pass recomputes: "none", "dots" (all but matmul outputs), "block"
        (everything inside a block) or "offload" (as "block", and the blocks' inputs wait in the
        host's memory).
      dropout: the share of what a sublayer adds to the residual stream that is dropped in training
        (Srivastava et al. 2014; GPT-1 and GPT-2 had 0.1 everywhere).
      attention_dropout: the same of the attention's weights. No kernel can, so the reference
        implementation computes them, and B x N x T x T of them are held.
      embedding_dropout: the same of the embeddings.
    """

    vocab_size: Positive
    context_length: Annotated[int, Range(2, 2**31 - 1)]
    width: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive | None = None
    head_size: Positive | None = None
    mlp_width: Positive | None = None
    positions: Literal["learned", "sinusoidal", "rope"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["pre", "post", "both"] = "pre"
    qk_norm: bool = False
    mlp: Literal["gelu", "swiglu", "geglu"] = "gelu"
    tied: bool = True
    biases: bool = True
    scale_embedding: bool = False
    query_scale: PositiveFloat | None = None
    window: Positive | None = None
    global_every: Positive = 6
    rope_theta: PositiveFloat = 10000.0
    rope_divisor: PositiveFloat = 1.0
    rope_theta_local: PositiveFloat = 10000.0
    norm_eps: PositiveFloat = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "block", "offload"] = "none"
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    embedding_dropout: Rate = 0.0

    def __post_init__(self):
        check_ranges(self)
        if self.head_size is None and self.width % self.heads:
            raise UserError(
                f"The model's width {self.width} does not divide into {self.heads} heads; "
                "change one of them, or set head_size."
            )
        c = self.resolved()
        if c.heads % c.kv_heads:
            raise UserError(
                f"The model's {c.heads} heads do not divide into {c.kv_heads} kv_heads; "
                "kv_heads must be a divisor of heads."
            )
        if c.positions == "rope" and c.head_size % 2:
            raise UserError(f"Rotary positions need an even head_size, but it is {c.head_size}.")
        if c.positions == "sinusoidal" and c.width % 2:
            raise UserError(f"Sinusoidal positions need an even width, but it is {c.width}.")

    def resolved(self) -> "ModelConfig":
        """The same model with the numbers that follow from others filled in; to be read only."""
        if None not in (self.kv_heads, self.head_size, self.mlp_width):
            return self
        return dataclasses.replace(
            self,
            kv_heads=self.kv_heads or self.heads,
            head_size=self.head_size or self.width // self.heads,
            mlp_width=self.mlp_width or 4 * self.width,
        )

    def windows(self) -> list[int | None]:
        """The window of every layer; None for a global one."""
        return [
            self.window if self.window and (layer + 1) % self.global_every else None
            for layer in range(self.layers)
        ]

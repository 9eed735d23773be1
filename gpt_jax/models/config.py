"""The shape of a decoder-only transformer, as one frozen (hashable) dataclass."""

import dataclasses
from typing import Annotated, Literal

from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, PositiveFloat, Range, check_ranges

Rate = Annotated[float, Range(0.0, 1.0, open_high=True)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What distinguishes GPT, OPT, NeoX, Llama, Mistral, Qwen, Phi-3 and Gemma from one another.

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
      parallel: whether attention and feed-forward layer read the same residual stream side by side,
        each through its own norm (GPT-NeoX; Black et al. 2022, section 2.1); with "pre".
      qk_norm: whether queries and keys are normed per head, before rotary positions (Dehghani et
        al. 2023).
      mlp: "gelu" (tanh form, Hendrycks & Gimpel 2016), "gelu_exact" (by the error function), "relu"
        (OPT), "swiglu" or "geglu" (gated by a second matrix, Shazeer 2020).
      tied: whether the unembedding is the embedding.
      biases: whether dense layers and layer norms have biases.
      qkv_biases: whether queries, keys and values have biases where `biases` is off (Qwen2).
      scale_embedding: whether embeddings are multiplied by sqrt(D).
      query_scale: multiplies the attention scores. None: 1 / sqrt(H).
      attention_softcap: c squashes attention scores s to c tanh(s / c) (Gemma 2). None: no cap.
      logit_softcap: the same of the logits of the next token.
      window: how many keys a query of a local layer sees, its own included. None: all layers are
        global.
      global_every: with a window, every how manyth layer is global (Gemma 3: 6). None: none is.
      rope_share: the share of a head's dimensions, the first ones, that is rotated (NeoX: 0.25).
      rope_theta: the base of the rotary frequencies.
      rope_divisor: divides the positions before they are rotated (Chen et al. 2023).
      rope_scaling: which frequencies see divided positions: all ("linear"), or those that turn
        seldom within `rope_original_context` tokens: by the number of turns ("llama3"; Grattafiori
        et al. 2024) or by the index of the dimension ("yarn"; Peng et al. 2023, section 3.2).
      rope_original_context: the context before it was extended; for "llama3" and "yarn".
      rope_turns_low, rope_turns_high: who turns less often than the first is divided wholly, who
        more often than the second not at all.
      rope_magnitude: multiplies rotated queries and keys alike (YaRN: 1 + 0.1 ln(divisor)).
      rope_theta_local: the base in local layers, whose positions are not divided. None: they are
        rotated as those of global layers are.
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
    parallel: bool = False
    qk_norm: bool = False
    mlp: Literal["gelu", "gelu_exact", "relu", "swiglu", "geglu"] = "gelu"
    tied: bool = True
    biases: bool = True
    qkv_biases: bool = False
    scale_embedding: bool = False
    query_scale: PositiveFloat | None = None
    attention_softcap: PositiveFloat | None = None
    logit_softcap: PositiveFloat | None = None
    window: Positive | None = None
    global_every: Positive | None = 6
    rope_share: Annotated[float, Range(0.0, 1.0, open_low=True)] = 1.0
    rope_theta: PositiveFloat = 10000.0
    rope_divisor: PositiveFloat = 1.0
    rope_scaling: Literal["linear", "llama3", "yarn"] = "linear"
    rope_original_context: Positive | None = None
    rope_turns_low: PositiveFloat = 1.0
    rope_turns_high: PositiveFloat = 4.0
    rope_magnitude: PositiveFloat = 1.0
    rope_theta_local: PositiveFloat | None = 10000.0
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
        if c.positions == "rope":
            self._check_rope()
        if c.parallel and c.norm_position != "pre":
            raise UserError(
                "Layers side by side (parallel) read normed inputs: set norm_position to pre."
            )
        if c.positions == "sinusoidal" and c.width % 2:
            raise UserError(f"Sinusoidal positions need an even width, but it is {c.width}.")

    def _check_rope(self) -> None:
        head_size = self.resolved().head_size
        if self.rope_share == 1.0 and head_size % 2:
            raise UserError(f"Rotary positions need an even head_size, but it is {head_size}.")
        if not self.rotated or self.rotated % 2:
            raise UserError(
                "Rotary positions need an even number of dimensions of a head, but rope_share "
                f"{self.rope_share:g} of head_size {head_size} is {self.rotated}."
            )
        if self.rope_scaling == "linear":
            return
        if self.rope_original_context is None:
            raise UserError(f"rope_scaling {self.rope_scaling} needs a rope_original_context.")
        if not self.rope_turns_low < self.rope_turns_high:
            raise UserError(
                f"rope_turns_low is {self.rope_turns_low:g}, but must be less than "
                f"rope_turns_high, {self.rope_turns_high:g}."
            )

    @property
    def rotated(self) -> int:
        """R, how many dimensions of a head are rotated."""
        return int(self.resolved().head_size * self.rope_share)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a second matrix, its gate."""
        return self.mlp in ("swiglu", "geglu")

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
            self.window if not self.global_every or (layer + 1) % self.global_every else None
            for layer in range(self.layers)
        ]

"""The families of models that can be read and written: their configurations, key by key.

Facts are those of `transformers` 5 and of the published config.json files.
"""

from typing import NamedTuple

from gpt_jax.models.foreign.parts import (
    GATED,
    PLAIN,
    Part,
    activation,
    fixed,
    heads_of_their_own_size,
    needed,
    nullable,
    plain,
    query_scale,
    rotary,
    rotary_by_kind,
    window_everywhere,
    window_if_used,
    window_in_turns,
    written,
)


class Family(NamedTuple):
    """Attributes:
    classes: how the names of its classes begin.
    parts: of its configuration.
    """

    classes: str
    parts: tuple[Part, ...]


def _shape(kv_heads: int | None, head_size: int | None, tied: bool, eps: float) -> tuple[Part, ...]:
    """What Llama and its descendants call alike, with what each takes absent keys for."""
    return (
        plain("vocab_size", "vocab_size", int),
        plain("context_length", "max_position_embeddings", int),
        plain("width", "hidden_size", int),
        plain("layers", "num_hidden_layers", int),
        plain("heads", "num_attention_heads", int),
        nullable("kv_heads", "num_key_value_heads", int, kv_heads),
        heads_of_their_own_size(head_size),
        plain("mlp_width", "intermediate_size", int),
        plain("tied", "tie_word_embeddings", bool, tied),
        plain("norm_eps", "rms_norm_eps", float, eps),
        fixed(norm="rms", biases=False),
    )


SILU = activation("hidden_act", "silu", GATED)
GEMMA_ACTIVATION = activation("hidden_activation", "gelu_pytorch_tanh", GATED)
NO_WINDOW = fixed(window=None)


def _positive_scale() -> Part:
    """GPT-2's `scale_attn_weights`: false leaves the scores as they are."""
    return Part(
        lambda keys, fields: {
            "query_scale": None if keys.take("scale_attn_weights", bool, True) else 1.0
        },
        lambda config: {"scale_attn_weights": config.query_scale is None},
    )


def _opt_norms() -> Part:
    """OPT models norm what a layer reads, but the 350M one what it has written."""

    def read(keys, fields):
        before = keys.take("do_layer_norm_before", bool, True)
        if before and keys.take("_remove_final_layer_norm", bool, False):
            keys.refuse("_remove_final_layer_norm", True, "a norm follows the last layer")
        keys.left.pop("_remove_final_layer_norm", None)
        return {"norm_position": "pre" if before else "post"}

    return Part(read, lambda config: {"do_layer_norm_before": config.norm_position == "pre"})


def _opt_width() -> Part:
    def read(keys, fields):
        inner = keys.take("word_embed_proj_dim", int, fields["width"])
        if inner != fields["width"]:
            keys.refuse("word_embed_proj_dim", inner, "embeddings as wide as the model can be")
        return {}

    return Part(read, lambda config: {"word_embed_proj_dim": config.width})


def _gemma1_activation() -> Part:
    """Its published files say "gelu" and mean the tanh form, which newer ones name twice."""
    part = activation("hidden_act", "gelu_pytorch_tanh", GATED | {"gelu": "geglu"})

    def read(keys, fields):
        again = keys.take("hidden_activation", str, "gelu_pytorch_tanh")
        if again != "gelu_pytorch_tanh":
            keys.refuse("hidden_activation", again, "only 'gelu_pytorch_tanh' can")
        return part.read(keys, fields)

    return Part(read, part.write)


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2",
        (
            plain("vocab_size", "vocab_size", int),
            plain("context_length", "n_positions", int),
            plain("width", "n_embd", int),
            plain("layers", "n_layer", int),
            plain("heads", "n_head", int),
            plain("mlp_width", "n_inner", int, None),
            plain("tied", "tie_word_embeddings", bool, True),
            plain("norm_eps", "layer_norm_epsilon", float, 1e-5),
            activation("activation_function", "gelu_new", PLAIN),
            _positive_scale(),
            written("resid_pdrop", float, "dropout"),
            written("attn_pdrop", float, "attention_dropout"),
            written("embd_pdrop", float, "embedding_dropout"),
        ),
    ),
    "llama": Family("Llama", (*_shape(None, None, False, 1e-6), SILU, rotary(), NO_WINDOW)),
    "mistral": Family(
        "Mistral", (*_shape(8, None, False, 1e-6), SILU, rotary(), window_everywhere(4096))
    ),
    "qwen2": Family(
        "Qwen2",
        (
            *_shape(32, None, False, 1e-6),
            SILU,
            rotary(),
            window_if_used(),
            fixed(qkv_biases=True),
        ),
    ),
    "qwen3": Family(
        "Qwen3",
        (*_shape(32, 128, False, 1e-6), SILU, rotary(), window_if_used(), fixed(qk_norm=True)),
    ),
    "gemma": Family(
        "Gemma",
        (
            *_shape(16, 256, True, 1e-6),
            _gemma1_activation(),
            rotary(),
            NO_WINDOW,
            fixed(scale_embedding=True),
        ),
    ),
    "gemma2": Family(
        "Gemma2",
        (
            *_shape(4, 256, True, 1e-6),
            GEMMA_ACTIVATION,
            rotary(),
            window_in_turns(4096, 2),
            query_scale("query_pre_attn_scalar", 256),
            nullable("attention_softcap", "attn_logit_softcapping", float, 50.0),
            nullable("logit_softcap", "final_logit_softcapping", float, 30.0),
            fixed(norm_position="both", scale_embedding=True),
        ),
    ),
    "gemma3_text": Family(
        "Gemma3",
        (
            *_shape(4, 256, True, 1e-6),
            GEMMA_ACTIVATION,
            rotary_by_kind(),
            window_in_turns(4096, 6, "sliding_window_pattern"),
            query_scale("query_pre_attn_scalar", 256),
            nullable("logit_softcap", "final_logit_softcapping", float, None),
            fixed(norm_position="both", qk_norm=True, scale_embedding=True),
        ),
    ),
    "phi3": Family(
        "Phi3",
        (
            *_shape(None, None, False, 1e-5),
            SILU,
            # Its long contexts (longrope) choose frequencies by the longest row of a batch.
            rotary(kinds=("default",), share=("partial_rotary_factor", 1.0)),
            window_everywhere(None),
            written("original_max_position_embeddings", int, "context_length"),
        ),
    ),
    "opt": Family(
        "OPT",
        (
            plain("vocab_size", "vocab_size", int),
            plain("context_length", "max_position_embeddings", int),
            plain("width", "hidden_size", int),
            plain("layers", "num_hidden_layers", int),
            plain("heads", "num_attention_heads", int),
            plain("mlp_width", "ffn_dim", int),
            plain("tied", "tie_word_embeddings", bool, True),
            activation("activation_function", "relu", PLAIN),
            _opt_norms(),
            _opt_width(),
            written("dropout", float, "dropout"),
            written("attention_dropout", float, "attention_dropout"),
        ),
    ),
    "gpt_neox": Family(
        "GPTNeoX",
        (
            plain("vocab_size", "vocab_size", int),
            plain("context_length", "max_position_embeddings", int),
            plain("width", "hidden_size", int),
            plain("layers", "num_hidden_layers", int),
            plain("heads", "num_attention_heads", int),
            plain("mlp_width", "intermediate_size", int),
            plain("tied", "tie_word_embeddings", bool, False),
            plain("norm_eps", "layer_norm_eps", float, 1e-5),
            plain("parallel", "use_parallel_residual", bool, True),
            activation("hidden_act", "gelu", PLAIN),
            needed("attention_bias", True, True),
            rotary(beside="rotary_emb_base", share=("rotary_pct", 0.25)),
        ),
    ),
}

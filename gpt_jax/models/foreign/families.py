"""The families of models that can be read and written: their configurations, key by key.

Facts are those of `transformers` 5 and of the published config.json files.
"""

import dataclasses
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.keys import Keys
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
    """The largest OPT models norm what a layer reads, the 350M one what it has written."""

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


def config_from_hf(theirs: dict, source: str) -> ModelConfig:
    """The `ModelConfig` that a Hugging Face config.json describes.

    Args:
      theirs: the object in the file.
      source: the file, as errors name it.

    Raises:
      UserError: naming `source`, the key, and the value that cannot be expressed.
    """
    keys = Keys(theirs, source)
    kind = keys.take("model_type", str)
    if kind not in FAMILIES:
        keys.refuse("model_type", kind, f"{', '.join(FAMILIES)} can be")
    fields: dict[str, Any] = {}
    for part in FAMILIES[kind].parts:
        fields |= part.read(keys, fields)
    keys.finish()
    try:
        return ModelConfig(**fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def config_to_hf(config: ModelConfig, kind: str | None = None) -> dict[str, Any]:
    """The config.json of a family that computes the same logits; `config_from_hf` reads it back.

    Args:
      config: the model.
      kind: the family, one of `FAMILIES`; None: the first that can.

    Raises:
      UserError: naming the fields that no family has, or that `kind` has not.
    """
    if kind is not None and kind not in FAMILIES:
        raise UserError(f"There is no family {kind}; {', '.join(FAMILIES)} can be written.")
    wrong: dict[str, list[str]] = {}
    for name in FAMILIES if kind is None else (kind,):
        written = _written(config, name)
        wrong[name] = _differences(config, written, name)
        if not wrong[name]:
            return written
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    raise UserError(
        f"The model cannot be written as {'any family' if kind is None else kind}: it has "
        f"{' and '.join(wrong[nearest])}, which {nearest} cannot express; keep it as a run folder"
    )


def _written(config: ModelConfig, kind: str) -> dict[str, Any]:
    theirs: dict[str, Any] = {"model_type": kind}
    for part in FAMILIES[kind].parts:
        theirs |= part.write(config.resolved())
    return theirs


def _differences(config: ModelConfig, written: dict[str, Any], kind: str) -> list[str]:
    """The fields that come back otherwise, as "field value"."""
    try:
        back = config_from_hf(written, kind)
    except UserError as error:
        return [str(error), ""]  # further away than one field
    ours, theirs = (dataclasses.asdict(computed(c)) for c in (config, back))
    return [f"{name} {ours[name]}" for name in ours if not _same(ours[name], theirs[name])]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-6 * abs(theirs)
    return ours == theirs


def computed(config: ModelConfig) -> ModelConfig:
    """A configuration of the same logits, in which what changes none has its default."""
    c = config.resolved()
    plain_fields = {field.name: field.default for field in dataclasses.fields(c)}
    same = ["dtype", "remat", "dropout", "attention_dropout", "embedding_dropout"]
    if c.positions != "rope":
        same += [name for name in plain_fields if name.startswith("rope_")]
    if c.rope_scaling == "linear":
        same += ["rope_original_context", "rope_turns_low", "rope_turns_high"]
    if c.window is None:
        same += ["global_every", "rope_theta_local"]
    elif c.global_every is not None and c.global_every > c.layers:
        c = dataclasses.replace(c, global_every=None)
    if c.rope_theta_local == c.rope_theta and (c.rope_divisor, c.rope_magnitude) == (1.0, 1.0):
        c = dataclasses.replace(c, rope_theta_local=None)
    if c.biases:
        same.append("qkv_biases")
    if _same(c.query_scale, c.head_size**-0.5):
        same.append("query_scale")
    return dataclasses.replace(c, **{name: plain_fields[name] for name in same})

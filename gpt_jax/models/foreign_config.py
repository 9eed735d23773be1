"""A Hugging Face config.json -> `ModelConfig`.

Every key is used, known to change no logits (`HARMLESS`), or refused by name: what our decoder
cannot express would otherwise be computed wrongly in silence.
"""

import functools
from typing import Any, NoReturn

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig

HARMLESS = {
    key: reason
    for reason, keys in {
        "where the file comes from": "_name_or_path name_or_path transformers_version "
        "architectures auto_map _commit_hash unsloth_version unsloth_fixed",
        "which precision it was saved in; the tensors say it themselves": "dtype torch_dtype "
        "use_bfloat16",
        "training only; our dropout is chosen in our own configuration": "attn_pdrop embd_pdrop "
        "resid_pdrop attention_dropout initializer_range gradient_checkpointing",
        "the tokenizer knows it": "bos_token_id eos_token_id pad_token_id sep_token_id prefix "
        "tokenizer_class",
        "of another head; its tensors are refused": "summary_type summary_use_proj "
        "summary_activation summary_proj_to_labels summary_first_dropout classifier_dropout "
        "id2label label2id num_labels _num_labels problem_type finetuning_task "
        "task_specific_params",
        "what is returned beside the logits": "return_dict output_attentions output_hidden_states "
        "output_scores return_dict_in_generate",
        "how it is computed, not what": "use_cache cache_implementation pretraining_tp torchscript "
        "chunk_size_feed_forward reorder_and_upcast_attn _attn_implementation_autoset "
        "attn_implementation tf_legacy_loss is_decoder",
        "settings of generation": "max_length min_length do_sample early_stopping num_beams "
        "num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty "
        "length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences "
        "bad_words_ids forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "suppress_tokens begin_suppress_tokens exponential_decay_length_penalty "
        "decoder_start_token_id",
        "said again by another key": "n_ctx _sliding_window_pattern",
    }.items()
    for key in keys.split()
}
# Keys that may be there with the one value that changes nothing.
NEUTRAL = {
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "scale_attn_by_inverse_layer_idx": False,
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "use_sliding_window": False,
    "use_bidirectional_attention": False,
}
# Their activations that we have, and our name where they are in a gated layer.
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_new": "geglu", "gelu_pytorch_tanh": "geglu"}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
TYPES |= {dict: "an object", list: "a list"}


class Keys:
    """The keys of a JSON object that nobody has asked for yet; null is as good as absent.

    Attributes:
      left: the keys and their values.
      where: how errors call the object.
    """

    def __init__(self, theirs: dict, where: str):
        self.left = {key: value for key, value in theirs.items() if value is not None}
        self.where = where

    def take(self, key: str, kind: type, *default: Any) -> Any:
        """The value of a key, which is then accounted for; without a default it must be there.

        Numbers are positive: all that are asked for have to be.
        """
        if key not in self.left:
            if not default:
                raise UserError(f"{self.where}: {key} is missing; download the file again")
            return default[0]
        value = self.left.pop(key)
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, value, f"it must be {TYPES[kind]}")
        if kind in (int, float) and not 0 < value < (2**31 if kind is int else 1e300):
            self.refuse(key, value, "it must be positive and finite")
        return value

    def activation(self, key: str, default: str) -> str:
        """The name of our gated layer with this activation."""
        name = self.take(key, str, default)
        if name not in GATED:
            self.refuse(key, name, f"{', '.join(GATED)} can be loaded")
        return GATED[name]

    def refuse(self, key: str, value: Any, why: str) -> NoReturn:
        shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:76]} ..."
        raise UserError(f"{self.where}: {key} is {shown}, which cannot be loaded; {why}")

    def finish(self) -> None:
        """Refuses the first key that is neither taken nor known to change nothing."""
        for key, value in self.left.items():
            if key in NEUTRAL and value != NEUTRAL[key]:
                self.refuse(key, value, f"only {NEUTRAL[key]!r} can")
            if key not in NEUTRAL and key not in HARMLESS:
                self.refuse(key, value, "delete the key if you know that it changes no logits")


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
    fields = FAMILIES[kind](keys)
    keys.finish()
    try:
        return ModelConfig(**fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _gpt2(keys: Keys) -> dict[str, Any]:
    activation = keys.take("activation_function", str, "gelu_new")
    if GATED.get(activation) != "geglu":
        keys.refuse("activation_function", activation, "gelu_new and gelu_pytorch_tanh can be")
    return dict(
        vocab_size=keys.take("vocab_size", int),
        context_length=keys.take("n_positions", int),
        width=keys.take("n_embd", int),
        layers=keys.take("n_layer", int),
        heads=keys.take("n_head", int),
        mlp_width=keys.take("n_inner", int, None),
        tied=keys.take("tie_word_embeddings", bool, True),
        query_scale=None if keys.take("scale_attn_weights", bool, True) else 1.0,
        norm_eps=keys.take("layer_norm_epsilon", float, 1e-5),
    )


def _llama(keys: Keys, head_size: int | None, tied: bool = False) -> dict[str, Any]:
    """What Llama, Qwen3 and Gemma 3 have in common."""
    return dict(
        vocab_size=keys.take("vocab_size", int),
        context_length=keys.take("max_position_embeddings", int),
        width=keys.take("hidden_size", int),
        layers=keys.take("num_hidden_layers", int),
        heads=keys.take("num_attention_heads", int),
        kv_heads=keys.take("num_key_value_heads", int, None),
        head_size=keys.take("head_dim", int, head_size),
        mlp_width=keys.take("intermediate_size", int),
        positions="rope",
        norm="rms",
        tied=keys.take("tie_word_embeddings", bool, tied),
        biases=False,
        norm_eps=keys.take("rms_norm_eps", float, 1e-6),
    )


def _global_llama(keys: Keys, qk_norm: bool = False) -> dict[str, Any]:
    """Llama and Qwen3: every layer sees everything, and all have the same rotary positions."""
    types = keys.take("layer_types", list, [])
    if any(name != "full_attention" for name in types):
        keys.refuse("layer_types", types, "windows can be loaded as gemma3_text only")
    if qk_norm:  # Qwen3's windows are there only with use_sliding_window, which is refused.
        keys.left.pop("sliding_window", None)
        keys.left.pop("max_window_layers", None)
    rope, scaling = keys.take("rope_parameters", dict, {}), keys.take("rope_scaling", dict, {})
    if rope and scaling:
        keys.refuse("rope_scaling", scaling, "rope_parameters is there too")
    theta, divisor = _rotation(keys, rope or scaling, "rope_theta", 10000.0)
    return _llama(keys, 128 if qk_norm else None) | dict(
        mlp=keys.activation("hidden_act", "silu"),
        qk_norm=qk_norm,
        rope_theta=theta,
        rope_divisor=divisor,
    )


def _gemma3(keys: Keys) -> dict[str, Any]:
    """Rotary settings are per kind of layer (since version 5) or flat, for the global layers."""
    rope, scaling = keys.take("rope_parameters", dict, {}), keys.take("rope_scaling", dict, {})
    if rope and scaling:
        keys.refuse("rope_scaling", scaling, "rope_parameters is there too")
    kinds = Keys(rope, f"{keys.where}: rope_parameters")
    whole = kinds.take("full_attention", dict, scaling)
    local = kinds.take("sliding_attention", dict, {})
    kinds.finish()
    theta, divisor = _rotation(keys, whole, "rope_theta", 1e6)
    local_theta, local_divisor = _rotation(keys, local, "rope_local_base_freq", 10000.0)
    if local_divisor != 1.0:
        kinds.refuse("sliding_attention", local, "only global layers can have scaled positions")
    fields = _llama(keys, 256, tied=True)
    window, every = _windows(keys, fields["layers"])
    return fields | dict(
        norm_position="both",
        qk_norm=True,
        mlp=keys.activation("hidden_activation", "gelu_pytorch_tanh"),
        scale_embedding=True,
        query_scale=keys.take("query_pre_attn_scalar", float, 256) ** -0.5,
        window=window,
        global_every=every,
        rope_theta=theta,
        rope_divisor=divisor,
        rope_theta_local=local_theta,
    )


def _windows(keys: Keys, layers: int) -> tuple[int | None, int]:
    """Gemma's window (None: all layers are global), and every how manyth layer is global."""
    window = keys.take("sliding_window", int, None)
    every = keys.take("sliding_window_pattern", int, None)
    types = keys.take("layer_types", list, None)
    if types is None:
        every = every or 6
    else:
        whole = [i for i, name in enumerate(types, start=1) if name == "full_attention"]
        every = every or (whole[0] if whole else len(types) + 1)
        kinds = ("full_attention", "sliding_attention")
        if types != [kinds[i % every > 0] for i in range(1, len(types) + 1)]:
            why = f"by sliding_window_pattern or its start every {every}th layer would be global"
            keys.refuse("layer_types", types, why)
        if len(types) != layers:
            keys.refuse("layer_types", types, f"num_hidden_layers is {layers}")
    if every == 1:
        return None, every
    if window is None:
        raise UserError(f"{keys.where}: sliding_window is missing, but not all layers are global")
    return window, every


def _rotation(keys: Keys, rope: dict, beside: str, default: float) -> tuple[float, float]:
    """The base of the rotary frequencies, and what divides the positions.

    Args:
      keys: the whole file's.
      rope: the rotary settings in it.
      beside: the key of the base where older files have it, outside of these settings.
      default: the base where there is none.
    """
    inner = Keys(rope, f"{keys.where}: rope_parameters (or rope_scaling)")
    inner.left.setdefault("rope_type", inner.left.pop("type", "default"))
    kind = inner.take("rope_type", str)
    if kind not in ("default", "linear"):
        inner.refuse("rope_type", kind, "default and linear can be")
    divisor = inner.take("factor", float) if kind == "linear" else 1.0
    outside = keys.take(beside, float, None)
    theta = inner.take("rope_theta", float, default if outside is None else outside)
    if outside not in (None, theta):
        keys.refuse(beside, outside, f"its rotary settings say {theta}")
    inner.finish()
    return theta, divisor


FAMILIES = {
    "gpt2": _gpt2,
    "llama": _global_llama,
    "qwen3": functools.partial(_global_llama, qk_norm=True),
    "gemma3_text": _gemma3,
}

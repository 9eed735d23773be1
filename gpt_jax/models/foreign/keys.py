"""The keys of a Hugging Face config.json, each accounted for.

Every key is used, known to change no logits (`HARMLESS`), or refused by name: what our decoder
cannot express would otherwise be computed wrongly in silence.
"""

from typing import Any, NoReturn

from gpt_jax.errors import UserError

HARMLESS = {
    key: reason
    for reason, keys in {
        "where the file comes from": "_name_or_path name_or_path transformers_version "
        "architectures auto_map _commit_hash unsloth_version unsloth_fixed",
        "which precision it was saved in; the tensors say it themselves": "dtype torch_dtype "
        "use_bfloat16",
        "training only; our dropout is chosen in our own configuration": "attn_pdrop embd_pdrop "
        "resid_pdrop attention_dropout hidden_dropout dropout layerdrop initializer_range init_std "
        "gradient_checkpointing",
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
    "layer_norm_elementwise_affine": True,
    "enable_bias": True,
}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
TYPES |= {dict: "an object", list: "a list"}


class Keys:
    """The keys of a JSON object that nobody has asked for yet; null is as good as absent.

    Attributes:
      left: the keys and their values.
      empty: the keys whose value is null.
      where: how errors call the object.
    """

    def __init__(self, theirs: dict, where: str):
        self.left = {key: value for key, value in theirs.items() if value is not None}
        self.empty = theirs.keys() - self.left.keys()
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

    def take_or_null(self, key: str, kind: type, default: Any) -> Any:
        """As `take`, where null says something else than no key: None."""
        return None if key in self.empty else self.take(key, kind, default)

    def take_or_zero(self, key: str, default: int) -> int:
        """A whole number that, other than those of `take`, may be 0."""
        return self.take(key, int, default) if self.left.get(key) != 0 else self.left.pop(key)

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

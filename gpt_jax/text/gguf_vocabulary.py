"""The tokenizer inside a GGUF file (llama.cpp's): vocabulary, merges, special tokens, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from gpt_jax.errors import UserError
from gpt_jax.text.folders import MEND, Found
from gpt_jax.text.gguf_fields import read_fields
from gpt_jax.text.gguf_sentencepiece import make_backend

_SPECIAL, _USER_DEFINED = {2, 3}, 4  # unknown, control; of `tokenizer.ggml.token_type`
_NEEDED = {"gpt2": ["merges"], "llama": ["scores"]}  # by `tokenizer.ggml.model`

# `tokenizer.ggml.pre` names how a text is cut before its pieces are merged.
_GPT2 = {"gpt-2", "olmo", "mpt", "phi-2", "jais"}
_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell"}  # and each digit alone
_WORDS = {"llama-bpe": "{1,3}", "llama3": "{1,3}", "llama-v3": "{1,3}", "qwen2": ""}  # digits
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def find(path: Path) -> Found:
    """Reads the tokenizer of a GGUF file.

    Raises:
      UserError: if the file is damaged, holds no tokenizer, or one of another kind than byte-level
        BPE or SentencePiece's.
    """
    fields = _fields(path)
    kind, pre = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    if kind not in _NEEDED:
        raise UserError(
            f"{path}: its tokenizer is of the kind {kind!r}, and only those of the kinds "
            f"{', '.join(_NEEDED)} can be read from a GGUF file; give the model's Hugging Face "
            "folder"
        )
    cutting = _cutting(path, pre) if kind == "gpt2" else None
    try:
        backend = _byte_level(fields, cutting, pre) if cutting else make_backend(fields)
        return _with_names(fields, backend, always_bos=kind == "llama" or _is_llama3(pre))
    except Exception as error:  # the library raises bare Exception for merges without a token
        raise UserError(f"{path}: its tokenizer is damaged ({error!r}); {MEND}") from error


def _is_llama3(pre: str) -> bool:
    return pre in _WORDS and pre != "qwen2"


def _byte_level(
    fields: dict[str, Any], cutting: pre_tokenizers.PreTokenizer, pre: str
) -> tokenizers.Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    # Llama 3 takes a word that is a token as it is.
    model = models.BPE(vocabulary, merges, ignore_merges=_is_llama3(pre))
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = cutting
    backend.normalizer = normalizers.NFC() if pre == "qwen2" else None
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_names(fields: dict[str, Any], backend: tokenizers.Tokenizer, always_bos: bool) -> Found:
    """The special tokens join the vocabulary's, and what ends and begins texts is named."""
    tokens = fields["tokenizer.ggml.tokens"]
    typed = list(zip(tokens, fields["tokenizer.ggml.token_type"], strict=True))
    backend.add_special_tokens([token for token, kind in typed if kind in _SPECIAL])
    backend.add_tokens([token for token, kind in typed if kind == _USER_DEFINED])

    def token(name: str) -> str | None:
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else tokens[number]

    bos = token("bos")
    if fields.get("tokenizer.ggml.add_bos_token", always_bos and bos is not None):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokens.index(bos))]
        )
    stops = tuple(filter(None, (token("eot"), token("eom"))))
    template = fields.get("tokenizer.chat_template")
    return Found(backend, bos, token("eos"), token("padding"), stops, template)


def _cutting(path: Path, pre: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in _GPT2:
        return byte_level
    if pre in _DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if pre in _WORDS:
        words = Regex(_WORD.format(digits=_WORDS[pre]))
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), byte_level])
    raise UserError(
        f"{path}: its tokenizer cuts text in the way {pre!r}, which is not known here (known are "
        f"{', '.join(sorted(_GPT2 | _DIGITS | set(_WORDS)))}); give the model's Hugging Face folder"
    )


def _fields(path: Path) -> dict[str, Any]:
    """The keys and values of a file that holds a whole tokenizer."""
    found = read_fields(path)
    kind = found.get("tokenizer.ggml.model")
    names = ["model", "tokens", "token_type", *_NEEDED.get(kind, ())]
    needed = [f"tokenizer.ggml.{name}" for name in names]
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(f"{path} holds no whole tokenizer: it lacks {', '.join(missing)}; {MEND}")
    return found

"""Tokenizers as people have them on disk: Hugging Face's folders, and GPT-2's two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gpt_jax import files
from gpt_jax.errors import UserError

MEND = "restore it, or fetch it again"
# What Python raises for values of other types than they should have.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # OpenAI's, Hugging Face's


class Found(NamedTuple):
    """What lies somewhere of a tokenizer.

    Attributes:
      backend: the library's object.
      bos, eos, pad: the texts of special tokens; None for one that no file names.
      stops: further ones that end what is said.
      jinja: the chat template.
      document: what stands between documents, where a file says so.
    """

    backend: tokenizers.Tokenizer
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    stops: tuple[str, ...] = ()
    jinja: str | None = None
    document: str | None = None


def find(where: Path) -> Found:
    """Reads a `tokenizer.json` or a folder.

    Raises:
      UserError: if there is no tokenizer, or a file is damaged.
    """
    folder = where if where.is_dir() else where.parent
    json_file = folder / "tokenizer.json" if where.is_dir() else where
    pair = next((pair for pair in PAIRS if all((folder / name).is_file() for name in pair)), None)
    if json_file.is_file():
        backend = _read_backend(json_file)
    elif where.is_dir() and pair:
        backend = _read_gpt2(folder, *pair)
    else:
        raise UserError(f"{where}: there is no tokenizer here; run the pretraining stage first")
    try:
        return _with_names(folder, backend)
    except DAMAGED as error:
        raise UserError(
            f"{folder}: a file beside the tokenizer's is damaged ({error!r}); {MEND}"
        ) from error


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise UserError(f"{path}: not a tokenizer file ({error}); restore or retrain it") from error


def _read_gpt2(folder: Path, vocab_name: str, merges_name: str) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE (Radford et al. 2019)."""
    kind = _config(folder).get("tokenizer_class", "GPT2Tokenizer")
    if kind.removesuffix("Fast") != "GPT2Tokenizer":
        raise UserError(
            f"{folder}: a {kind} reads text in another way than GPT-2, which {vocab_name} does not "
            "tell; fetch its tokenizer.json"
        )
    path = folder / merges_name
    vocabulary = files.read_json(folder / vocab_name, MEND)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip()]
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises bare Exception for merges without a token
        raise UserError(f"{path} is damaged ({error}); {MEND}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if "<|endoftext|>" in vocabulary:
        backend.add_special_tokens(["<|endoftext|>"])
    return backend


def _config(folder: Path) -> dict[str, Any]:
    return _optional(folder / "tokenizer_config.json")


def _optional(path: Path) -> dict[str, Any]:
    return files.read_json(path, MEND) if path.is_file() else {}


def _with_names(folder: Path, backend: tokenizers.Tokenizer) -> Found:
    """The tokens that the files beside a tokenizer name, and its chat template."""
    config, names = _config(folder), _optional(folder / "special_tokens_map.json")
    _mark_added(config, backend)

    def token(*keys: str, needed: bool = True) -> str | None:
        """The token that the first of these keys names."""
        values = [source.get(key) for key in keys for source in (config, names)]
        texts = [value.get("content") if isinstance(value, dict) else value for value in values]
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is None or backend.token_to_id(text) is not None:
            return text
        if needed:
            raise UserError(
                f"{folder}: its {keys[0]} is {text!r}, which the vocabulary lacks; name another in "
                "tokenizer_config.json"
            )
        return None

    ids = _optional(folder / "generation_config.json").get("eos_token_id")
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    stops = [backend.id_to_token(number) for number in ids]
    named = config.get("stop_tokens", [])
    lacking = [number for number in ids if backend.id_to_token(number) is None]
    lacking += [text for text in named if backend.token_to_id(text) is None]
    if lacking:
        raise UserError(
            f"{folder}: texts end with the token {lacking[0]!r}, which the vocabulary lacks; name "
            "others as eos_token_id in generation_config.json, or in tokenizer_config.json"
        )
    return Found(
        backend,
        token("bos_token"),
        token("eos_token", "sep_token"),
        token("pad_token", needed=False),  # padding is known without it
        (*stops, *named),
        _template(folder, config),
        token("document_token"),
    )


def _mark_added(config: dict[str, Any], backend: tokenizers.Tokenizer) -> None:
    """Tokens that only `added_tokens_decoder` knows, as of older folders, join the vocabulary."""
    decoder = config.get("added_tokens_decoder", {})
    for number, token in sorted((int(number), token) for number, token in decoder.items()):
        if backend.token_to_id(token["content"]) is None:
            added = tokenizers.AddedToken(
                token["content"],
                lstrip=token.get("lstrip", False),
                rstrip=token.get("rstrip", False),
                normalized=token.get("normalized", False),
                special=token.get("special", False),
            )
            add = backend.add_special_tokens if added.special else backend.add_tokens
            add([added])
            if backend.token_to_id(token["content"]) != number:
                raise UserError(
                    f"tokenizer_config.json puts {token['content']!r} at {number}, where the "
                    f"vocabulary has another token; {MEND}"
                )


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or a key of the configuration."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); {MEND}") from error
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    return found if isinstance(found, str) else None


def write(folder: Path, found: Found, jinja: str | None) -> None:
    """Writes `tokenizer_config.json` and `tokenizer.json`, each whole or not at all; the latter
    comes last, so that where it is both are."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": found.bos,
        "eos_token": found.eos,
        "pad_token": found.pad,
        "chat_template": jinja,
        "document_token": found.document,
        "stop_tokens": list(found.stops),
    }
    config = {key: value for key, value in config.items() if value is not None}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    files.write_text(folder / "tokenizer_config.json", text)
    files.write_text(folder / "tokenizer.json", found.backend.to_str(pretty=True))

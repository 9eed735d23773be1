"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from gpt_jax import files
from gpt_jax.errors import UserError

SPECIAL_TOKENS = ("<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>")
_BYTES = 256


class Tokenizer:
    """Text <-> token ids. Every byte sequence has an encoding; there is no unknown token.

    The five special tokens have the ids 0..4 and are only ever placed by `gpt_jax.text.chat`:
    `encode` treats text that merely spells one of them as ordinary text, so a user cannot
    forge a turn. `<pad>` and `<eos>` are different ids, so a stop token is never taken for padding.
    """

    pad_id, eos_id, user_id, assistant_id, system_id = range(len(SPECIAL_TOKENS))

    def __init__(self, backend: tokenizers.Tokenizer):
        for token_id, token in enumerate(SPECIAL_TOKENS):
            if backend.token_to_id(token) != token_id:
                raise UserError(
                    f"this tokenizer lacks {token} at id {token_id}; train one with gpt_jax"
                )
        backend.encode_special_tokens = True
        self._backend = backend

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns `vocab_size` tokens (specials and the 256 bytes included) from `texts`, or as many
        as these have.

        Digits stand alone, the first with the space before it, so that a number is always read the
        same way (Llama's digits stand alone, too) and a number of one digit is one token.
        """
        smallest = len(SPECIAL_TOKENS) + _BYTES
        if vocab_size < smallest:
            raise UserError(f"a vocabulary of {vocab_size} is too small; take at least {smallest}")
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(" ?[0-9]"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(map(_whole, texts), trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a `tokenizer.json`; a missing or broken file is a UserError that names it."""
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no tokenizer here; run the pretraining stage first")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for malformed files
            raise UserError(
                f"{path}: not a tokenizer file ({error}); restore or retrain it"
            ) from error
        return cls(backend)

    def save(self, path: str | Path) -> None:
        """Writes `tokenizer.json` whole or not at all."""
        files.write_text(path, self._backend.to_str(pretty=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._backend.to_str() == other._backend.to_str()

    __hash__ = None  # it is compared by all that it holds

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never one of the special ids.

        Raises:
          UserError: if the text is no Unicode, since it has a half of a surrogate pair.
        """
        return self._backend.encode(_whole(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; invalid UTF-8 becomes the replacement character."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)


def _whole(text: str) -> str:
    """The same text, if it is Unicode; a UserError if it has a half of a surrogate pair."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start + 1} of this text, {text[error.start]!a}, is half of a "
            "surrogate pair and no character; remove it"
        ) from error
    return text

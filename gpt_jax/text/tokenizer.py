"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), or any tokenizer that people have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from gpt_jax.errors import UserError
from gpt_jax.text import backends, folders, gguf_vocabulary
from gpt_jax.text.folders import Found
from gpt_jax.text.jinja import JinjaTemplate
from gpt_jax.text.layout import Marks, any_of
from gpt_jax.text.template import Template
from gpt_jax.text.templates import OURS, TEMPLATES, named

SPECIAL_TOKENS = ("<pad>", "<eos>", *OURS.tokens)
_BYTES = 256
# What families put between documents, where their chat models end a turn with another token.
_BETWEEN_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")


class Tokenizer:
    """Text <-> token ids, with the special tokens and the chat template that belong to them.

    Special tokens are only ever placed by `gpt_jax.text.chat`: `encode` treats text that merely
    spells one as ordinary text, so a user cannot forge a turn. The padding may be the id of a stop
    token, as in GPT-2, which has one special token in all: what is padding is known from segment
    ids, never from an id.

    Attributes:
      template: of a chat; None: there is none.
      marks: the texts of the special tokens, for the template.
      pad_id: fills rows.
      eos_id: ends what the assistant says or, without a template, a document.
      document_id: stands between documents.
      bos_id: begins a text; None: no token does.
      stop_ids: what ends a text that is sampled: `eos_id`, and others.
      vocab_size: the highest id, and one.
      begins_with_bos: whether documents begin with `bos_id`, as Llama's and Gemma's do.
    """

    def __init__(self, found: Found, template: Template | JinjaTemplate | None = None):
        """A tokenizer from what lies in a file.

        Args:
          found: a backend, and the names of its special tokens.
          template: of a chat.

        Raises:
          UserError: if no token ends a text, or the template needs one that is not there.
        """
        self.template, self._found, self._backend = template, found, found.backend
        for token in template.tokens if template else ():
            if not self.has(token):
                raise UserError(
                    f"the chat template {template.name} needs the token {token}, which this "
                    "tokenizer lacks; add it with `with_template`"
                )
        added = self._backend.get_added_tokens_decoder()
        self._sides = {number: (token.lstrip, token.rstrip) for number, token in added.items()}
        self.marks, between = self._name(added.values())
        self.document_id = self.id_of(between)
        self.stop_ids = tuple(map(self.id_of, self.marks.stops))
        self.eos_id = self.stop_ids[0]
        self.bos_id = self.id_of(found.bos) if found.bos else None
        self.pad_id = self.id_of(found.pad) if found.pad else self.document_id
        self.vocab_size = max(self._backend.get_vocab().values()) + 1
        opening = self._backend.encode("", add_special_tokens=True).ids
        self.begins_with_bos = self.bos_id is not None and opening[:1] == [self.bos_id]
        self._splitter = re.compile(f"({any_of(self.marks.specials)})")
        specials, declared = set(self.marks.specials), set(self.marks.declared)
        meant = {found.bos, found.pad, *self.marks.stops, *(specials - declared)} - {None}
        self._encoders = backends.make_encoders(self._backend, specials, meant)
        self._spoken = self._encoders  # for the assistant's words, which may have <think>
        if specials != declared:
            self._spoken = backends.make_encoders(self._backend, declared, meant)

    def _name(self, added: Iterable[tokenizers.AddedToken]) -> tuple[Marks, str]:
        """The texts of the special tokens, and of the one between documents."""
        found, template = self._found, self.template
        eos = found.eos or next(filter(self.has, _BETWEEN_DOCUMENTS), None)
        if eos is None:
            raise UserError(
                "this tokenizer names no token that ends a text; write one that it has as "
                '"eos_token" into the tokenizer_config.json beside it'
            )
        texts = {token.content: token.special for token in added}
        declared = {text for text, special in texts.items() if special}
        declared |= {found.bos, eos, found.pad, found.document} - {None}
        # A template may be made of tokens that are not declared special, as some of Qwen's are.
        specials = declared | {text for text in texts if _is_used(text, template)}
        marks = Marks(
            found.bos or "", eos, found.pad or "", tuple(sorted(specials)), tuple(sorted(declared)),
            stops=(),
        )  # fmt: skip
        end = (template.ends(marks).closing if template else "") or eos
        between = eos if eos != end else next(filter(self.has, _BETWEEN_DOCUMENTS), eos)
        between = found.document or between
        stops = tuple(dict.fromkeys([end, eos, between, *found.stops]))
        return marks._replace(stops=stops), between

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
        return cls(_ours(backend), OURS)

    @classmethod
    def load(cls, where: str | Path) -> Tokenizer:
        """Reads a tokenizer.

        Args:
          where: a folder with Hugging Face's files (`tokenizer.json`, and what lies beside it), as
            a run's is, or with GPT-2's two; a `tokenizer.json`; or a `.gguf` file.

        Raises:
          UserError: naming the file, if it is missing or broken, or no token ends a text.
        """
        where = Path(where)
        found = (gguf_vocabulary if where.suffix == ".gguf" else folders).find(where)
        ours = all(found.backend.token_to_id(t) == i for i, t in enumerate(SPECIAL_TOKENS))
        if ours and found.eos is None:  # runs once saved tokenizer.json alone
            found = _ours(found.backend)._replace(jinja=OURS.jinja)
        known = {template.jinja: template for template in TEMPLATES}
        template = known.get(found.jinja) or (JinjaTemplate(found.jinja) if found.jinja else None)
        try:
            return cls(found, template)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, as Hugging Face's libraries do, each
        whole or not at all."""
        jinja = self.template.jinja if self.template else None
        document = self._backend.id_to_token(self.document_id)
        found = self._found._replace(eos=self.marks.eos, stops=self.marks.stops, document=document)
        folders.write(Path(folder), found, jinja)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._all() == other._all()

    __hash__ = None  # it is compared by all that it holds

    def _all(self) -> tuple:
        ids = (self.pad_id, self.eos_id, self.bos_id, self.document_id, set(self.stop_ids))
        return self._backend.to_str(), self.template and self.template.jinja, ids

    def with_template(self, name: str) -> Tokenizer:
        """The same tokenizer with a chat template that is known by name, and the tokens that this
        is made of. A model may have to grow for them (`gpt_jax.models.grow`)."""
        template = named(name)
        grown = self.with_tokens(template.tokens)
        return Tokenizer(grown._found, template)

    def with_tokens(self, tokens: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more special tokens, at the end of its ids; those that it has
        become special where they are."""
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.add_special_tokens(list(tokens))
        return Tokenizer(self._found._replace(backend=backend), self.template)

    def has(self, token: str) -> bool:
        """Whether there is a token that is spelled like that."""
        return self._backend.token_to_id(token) is not None

    def id_of(self, token: str) -> int:
        """The id of a token by its text.

        Raises:
          UserError: if there is none.
        """
        found = self._backend.token_to_id(token)
        if found is None:
            raise UserError(f"this tokenizer has no token {token!r}; give one that it has")
        return found

    @property
    def missing_bytes(self) -> tuple[int, ...]:
        """The bytes that the vocabulary lacks, and that texts lose: some control characters and
        rare planes of Unicode, in SmolLM2."""
        return backends.missing_bytes(self._backend)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never one of the special ids.

        Raises:
          UserError: if the text is no Unicode, since it has a half of a surrogate pair.
        """
        return backends.encode(self._encoders.first, self._encoders.guarded, _whole(text))

    def encode_behind(self, text: str, special: bool, spoken: bool) -> list[int]:
        """Ids of a text that goes on with another, for templates.

        Args:
          text: the words.
          special: whether a special token stands right before them, or other words.
          spoken: whether they are the assistant's.
        """
        encoders = self._spoken if spoken else self._encoders
        encoder = encoders.behind if special else encoders.inside
        return backends.encode(encoder, encoders.guarded, _whole(text))

    def split(self, markup: str) -> list[str | int]:
        """A template's own text as words and the ids of special tokens."""
        parts = filter(None, self._splitter.split(markup))
        return [self.id_of(part) if part in self.marks.specials else part for part in parts]

    def sides(self, token_id: int) -> tuple[bool, bool]:
        """Whether a special token takes the white space before and behind it away."""
        return self._sides.get(token_id, (False, False))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        first, guarded = self._encoders.first, self._encoders.guarded
        found = first.encode_batch_fast([_whole(t) for t in texts], add_special_tokens=False)
        rows = [one.ids for one in found]
        return [
            ids if guarded.isdisjoint(ids) else backends.encode(first, guarded, text)
            for ids, text in zip(rows, texts, strict=True)
        ]

    def described(self) -> str:
        """The vocabulary and its rules as JSON, as the `tokenizers` library writes it."""
        return self._backend.to_str()

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; invalid UTF-8 becomes the replacement character."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)


def _is_used(token: str, template: Template | JinjaTemplate | None) -> bool:
    """Whether a template is made of a token that looks like markup."""
    marked = token[:1] in ("<", "[") and token[-1:] in (">", "]")
    return template is not None and marked and token in template.jinja


def _ours(backend: tokenizers.Tokenizer) -> Found:
    pad, eos = SPECIAL_TOKENS[:2]
    return Found(backend, eos=eos, pad=pad)


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

"""SentencePiece's BPE (Kudo & Richardson 2018) from the scores in a GGUF file, as Llama 1 and 2,
Mistral and Gemma have it.

SentencePiece merges the two neighbours that make the piece of the highest score, the leftmost
first; the `tokenizers` library merges by a list of pairs. So the list has every pair of pieces that
makes a piece, the best piece first.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

_NORMAL, _UNKNOWN = 1, 2  # of `tokenizer.ggml.token_type`
_SPACE = "▁"


def make_backend(fields: dict[str, Any]) -> tokenizers.Tokenizer:
    """The library's object for these keys and values of a GGUF file, without special tokens."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    rows = list(zip(tokens, fields["tokenizer.ggml.scores"], types, strict=True))
    vocabulary = {token: number for number, (token, _, _) in enumerate(rows)}
    # A control token or a byte is never made from pieces, whatever they spell.
    scores = {token: score for token, score, kind in rows if kind == _NORMAL}
    merges = [
        (-score, vocabulary[token], cut, token)
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    merges.sort()
    model = models.BPE(
        vocabulary,
        [(token[:cut], token[cut:]) for _, _, cut, token in merges],
        unk_token=next((token for token, _, kind in rows if kind == _UNKNOWN), None),
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    before = fields.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if before else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *[decoders.Strip(" ", 1, 0)] * before])
    return backend

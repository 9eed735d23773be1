"""Byte-level BPE in plain Python, to hold others against: slow, and each step is to be seen."""

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SMOLLM = (r"\p{N}", GPT2)  # as llama.cpp cuts: each digit alone, then what is between as GPT-2


def letters() -> dict[int, str]:
    """Radford et al.'s letter for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(other)}


def cut(text: str, patterns: tuple[str, ...]) -> list[str]:
    """The text in pieces: what each pattern finds, and what is between, cut by the next."""
    pieces = [text]
    for pattern in patterns:
        finer = []
        for piece in pieces:
            at = 0
            for found in regex.finditer(pattern, piece):
                finer += [piece[at : found.start()], found.group()]
                at = found.end()
            finer.append(piece[at:])
        pieces = [piece for piece in finer if piece]
    return pieces


def encode(text: str, vocabulary: dict[str, int], merges: list[str], patterns: tuple[str, ...]):
    """Ids: in every piece the earliest merge that applies, until none does."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    table, ids, known = letters(), [], {}
    for piece in cut(text, patterns):
        if piece not in known:
            parts = [table[b] for b in piece.encode()]
            parts = [part for part in parts if part in vocabulary]
            while len(parts) > 1:
                pairs = list(zip(parts, parts[1:], strict=False))
                best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
                if best not in ranks:
                    break
                at, merged = 0, []
                while at < len(parts):
                    if tuple(parts[at : at + 2]) == best:
                        merged.append("".join(best))
                        at += 2
                    else:
                        merged.append(parts[at])
                        at += 1
                parts = merged
            known[piece] = [vocabulary[part] for part in parts]
        ids += known[piece]
    return ids

"""The bytes and the text of a file, plain or packed, block by block: no file is ever held whole.

A packed file of a megabyte can unpack to a terabyte. Text shrinks to a fifth or a tenth, hardly
ever to a hundredth, so what unpacks to far more is refused before it fills the memory.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import itertools
import lzma
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.data.extra import extra
from gpt_jax.errors import UserError

PACKED = (".gz", ".xz", ".zst")
BLOCK = 2**20  # bytes
LARGEST_ROW = 2**26  # bytes of one row, in any kind of file
bytes_read: dict[Path, int] = {}  # of each file, as far as it is read: to tell how long it takes
MOST_UNPACKED = 200  # times the size of the packed file; what is smaller than a row is fine


def plain_name(path: Path) -> str:
    """The name without the ending of its packing."""
    return path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name


def blocks(path: Path) -> Iterator[bytes]:
    """Yields the unpacked bytes, at most `BLOCK` at a time.

    Raises:
      UserError: the file is missing, no file, damaged, or unpacks to far too much.
    """
    with readable(path):
        most = MOST_UNPACKED * size_of(path) if path.suffix in PACKED else None
        seen = 0
        for block in _zst_blocks(path) if path.suffix == ".zst" else _opened_blocks(path):
            seen += len(block)
            check_unpacked(path, seen, most)
            yield block


def check_unpacked(path: Path, seen: int, most: int | None) -> None:
    """Ends with a UserError where a file has unpacked to more than it may."""
    if most is not None and seen > max(most, LARGEST_ROW):
        raise UserError(
            f"{path}: it unpacks to {seen // 2**20:,} MiB or more, over {MOST_UNPACKED} times its "
            "own size, as no text does; unpack it yourself if you trust it."
        )


def size_of(path: Path) -> int:
    """The bytes of a file as it lies there; a UserError if it is a pipe or a device."""
    about = path.stat()
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        raise UserError(f"{path}: this is a pipe or a device; write its content into a file.")
    return about.st_size


def lines(path: Path) -> Iterator[bytes | None]:
    """Yields the lines without their ends; None for one that is longer than a row may be."""
    pieces, length = [], 0
    for block in blocks(path):
        for number, piece in enumerate(block.split(b"\n")):
            if number:
                yield None if length > LARGEST_ROW else b"".join(pieces)
                pieces, length = [], 0
            length += len(piece)
            if length <= LARGEST_ROW:
                pieces.append(piece)
    if length:
        yield None if length > LARGEST_ROW else b"".join(pieces)


def text_blocks(path: Path, *, plain_ends: bool = True) -> Iterator[str]:
    """Yields the text, some of it at a time.

    Args:
      path: of a file in UTF-8, with or without a byte order mark.
      plain_ends: read all line ends as "\\n".

    Raises:
      UserError: naming the line, if it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    line = 1
    for block in itertools.chain(blocks(path), [b""]):
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            raise UserError(
                f"{path}:{line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8."
            ) from error
        line += text.count("\n")
        yield ends.decode(text, final=not block) if plain_ends else text


def unreadable(path: Path, error: Exception) -> UserError:
    """What to say of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: there is no such file; check the path.")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: this is a folder; name a file in it, or all: {path}/*.jsonl.")
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: it cannot be read ({reason}); check or replace it.")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around the reading of a file: what the system or an unpacker says becomes a UserError."""
    try:
        yield
    except (OSError, ValueError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise unreadable(path, error) from error


def _opened_blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as packed:
        opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix)
        file = opener(packed) if opener else packed
        while block := file.read(BLOCK):
            bytes_read[path] = packed.tell()
            yield block


def _zst_blocks(path: Path) -> Iterator[bytes]:
    zstandard = extra("zstandard", f"{path} is read")
    unpacker, some = None, b""
    with open(path, "rb") as file:
        # 4 KiB at a time: they can unpack to 128 MiB.
        while packed := some or file.read(4096):
            bytes_read[path] = file.tell()
            unpacker = unpacker or zstandard.ZstdDecompressor().decompressobj()
            try:
                text = unpacker.decompress(packed)
            except zstandard.ZstdError as error:
                raise unreadable(path, error) from error
            some = b""
            if unpacker.eof:  # of this frame; another may follow
                some, unpacker = unpacker.unused_data, None
            for start in range(0, len(text), BLOCK):
                yield text[start : start + BLOCK]
    if unpacker is not None:
        raise EOFError("it ends before its last frame does")

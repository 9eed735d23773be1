"""Small tokenizers of the kinds that people have."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from gpt_jax.text.folders import Found
from gpt_jax.text.tokenizer import Tokenizer

TEXTS = [
    "Hello there, how are you? I am fine. user assistant system model Human Assistant",
    "naïve café 北京 🙂\n\ttabs and\n\nlines, [INST] 12 + 7 = 19 <|im_end|> ### Response: end",
] * 20
MARKS = ("<s>", "</s>", "<unk>")


def ours() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


def gpt2() -> Found:
    """Byte-level, with one special token, as GPT-2."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return Found(backend, eos="<|endoftext|>")


def sentencepiece(scheme: str) -> Found:
    """Words with a mark for the space before them, which the first word has, too, as in Llama 1 and
    2. scheme "first": only the first word of all; "always": each behind a special token; "legacy":
    the same by a normalizer."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(MARKS),
        show_progress=False,
        initial_alphabet=[chr(i) for i in range(32, 127)],
    )
    words = [word for text in TEXTS for word in text.split(" ")]
    backend.train_from_iterator(words, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return Found(backend, bos="<s>", eos="</s>")

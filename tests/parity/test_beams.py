"""Beam search against `transformers`' on the same tensors.

Break it: let a completion beyond the K best continuations finish, or do not count its stop token.
"""

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

import jax  # noqa: E402

from gpt_jax.data.batches import pad_prompts  # noqa: E402
from gpt_jax.generate.beams import beam_search  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402

V, STOP, C = 40, 24, 12  # a token that this model says often
IDS = np.random.default_rng(3).integers(8, V, (3, 9))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=STOP,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    folder = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(folder)
    pretrained = open_pretrained(folder)
    return model, (pretrained.config, pretrained.load())


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_sequences_and_scores_are_theirs(pair, alpha, beams=4):
    theirs, (config, params) = pair
    found = theirs.generate(
        torch.from_numpy(IDS),
        attention_mask=torch.ones(IDS.shape, dtype=torch.long),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=C,
        do_sample=False,
        early_stopping="never",
        length_penalty=alpha,
        pad_token_id=0,
        eos_token_id=STOP,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ours = jax.device_get(
        jax.jit(
            lambda params: beam_search(
                config,
                params,
                pad_prompts(IDS.tolist(), IDS.shape[1], 0),
                beams=beams,
                max_new_tokens=C,
                stop_ids=(STOP,),
                pad_id=0,
                length_penalty=alpha,
            )
        )(params)
    )
    scores = found.sequences_scores.numpy().reshape(len(IDS), beams)
    np.testing.assert_allclose(ours.scores_BK, scores, atol=1e-4)
    ids = found.sequences.numpy()[:, IDS.shape[1] :].reshape(len(IDS), beams, -1)
    said = np.arange(ids.shape[2]) < ours.lengths_BK[:, :, None]
    np.testing.assert_array_equal(ours.ids_BKC[:, :, : ids.shape[2]][said], ids[said])
    assert (ids[~said] == STOP).all()  # with which theirs are filled up
    assert len(np.unique(ours.lengths_BK)) > 1, "some must stop early, or nothing is shown"

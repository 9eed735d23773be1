"""Stages that start from a model that lies in Hugging Face's layout, and go back to it."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import convert, ppo, reward, sft
from gpt_jax.errors import UserError
from gpt_jax.generate import Sampling
from gpt_jax.metrics import read_metrics
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.foreign.export import save_pretrained
from gpt_jax.models.heads import init_scorer
from gpt_jax.text.templates import named
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.origin import is_foreign, load_model, load_model_files, load_params
from gpt_jax.train.served import open_run

TEXTS = ["Rini lives in Balton and has a hen.", "What is 3 plus 4? It is 7.", "Who are you?"] * 40
LEARNED = ModelConfig(vocab_size=300, context_length=128, width=16, layers=2, heads=2)
ROPE = dataclasses.replace(LEARNED, positions="rope", norm="rms", mlp="swiglu", biases=False)


def export(folder, model=ROPE, scorer=False, seed=0):
    """A random model with a ChatML tokenizer, as other people would publish it."""
    tokenizer = Tokenizer.train(TEXTS, 280).with_template("chatml")
    params = init(model, jax.random.key(seed))
    if scorer:
        params = init_scorer(model, params, jax.random.key(1))
    ids = dict(stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id)
    save_pretrained(folder, model, params, **ids)
    tokenizer.save(folder)
    return str(folder)


def few_steps(module, *options):
    config = command.parse(["--preset=smoke", "--mesh.data=1", *options], module.presets, "")
    module.main(config)
    return config


def test_a_model_from_elsewhere_is_finetuned_and_goes_back(tmp_path):
    """Break it: forget the template in `Tokenizer.save`, or `context` in `start_params`."""
    folder = export(tmp_path / "theirs", LEARNED)
    options = [f"--init-from={folder}", "--context=96", f"--run-dir={tmp_path / 'sft'}"]
    config = few_steps(sft, *options)
    model, params, tokenizer = load_model(config.run_dir)
    assert model.context_length == 96 and params["embed"]["positions"].shape == (96, 16)
    assert tokenizer == Tokenizer.load(folder) and tokenizer.template == named("chatml")
    few_steps(sft, *options)  # resumes: finished, and what it was made from is the same
    convert.main(config.run_dir, tmp_path / "ours")
    back = open_run(tmp_path / "ours")
    asked, how = [[{"role": "user", "content": "Who are you?"}]], Sampling(max_new_tokens=4)
    assert back.complete(asked, how) == open_run(config.run_dir).complete(asked, how)
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
    with pytest.raises(UserError, match="is not empty; give a new folder for --output"):
        convert.main(config.run_dir, tmp_path / "ours")


@pytest.mark.slow
def test_a_base_model_learns_a_template(tmp_path):
    """Its new tokens have rows of their own. Break it: leave `grow` out of `start_params`."""
    tokenizer = Tokenizer.train(TEXTS, 280)
    tokenizer = Tokenizer(tokenizer._found._replace(jinja=None))
    model = dataclasses.replace(ROPE, vocab_size=280)
    params = init(model, jax.random.key(0))
    folder = tmp_path / "theirs"
    save_pretrained(folder, model, params, stop_ids=tokenizer.stop_ids)
    tokenizer.save(folder)
    options = [f"--init-from={folder}", "--context=96"]
    with pytest.raises(UserError, match="chatml"):
        few_steps(sft, *options, f"--run-dir={tmp_path / 'none'}")
    config = few_steps(sft, *options, f"--run-dir={tmp_path / 'sft'}", "--template=chatml")
    model, params, tokenizer = load_model(config.run_dir)
    assert model.vocab_size == tokenizer.vocab_size == len(params["embed"]["tokens"]) == 282
    assert open_run(config.run_dir).complete(["Who are you?"], Sampling(max_new_tokens=2))


def test_what_a_run_started_from_is_compared(tmp_path):
    folder = export(tmp_path / "theirs")
    options = [f"--init-from={folder}", "--context=96", f"--run-dir={tmp_path / 'sft'}"]
    few_steps(sft, *options)
    export(tmp_path / "theirs", seed=5)
    with pytest.raises(UserError, match="another state of init_from"):
        few_steps(sft, *options)


@pytest.mark.slow
def test_ppo_from_a_policy_and_a_reward_model_from_elsewhere(tmp_path):
    policy = export(tmp_path / "policy")
    judge = export(tmp_path / "judge", scorer=True)
    options = [f"--init-from={policy}", f"--reward-from={judge}", "--ppo.train.steps=1"]
    config = few_steps(ppo, *options, "--context=96", f"--run-dir={tmp_path / 'ppo'}")
    rows = read_metrics(tmp_path / "ppo")
    assert np.isfinite(rows[-1]["objective/scores"]) and abs(rows[0]["objective/kl"]) < 1e-5
    assert open_run(config.run_dir).config.context_length == 96


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int4"])
def test_frozen_models_are_kept_small(tmp_path, dtype):
    """The KL starts at the error of the reference. Break it: keep what is frozen as it is."""
    model = dataclasses.replace(ROPE, width=32)
    policy = export(tmp_path / "policy", model)
    judge = export(tmp_path / "judge", model, scorer=True)
    options = [f"--init-from={policy}", f"--reward-from={judge}", "--ppo.train.steps=1"]
    few_steps(ppo, *options, f"--run-dir={tmp_path / 'ppo'}", f"--frozen-dtype={dtype}")
    (first, *_) = read_metrics(tmp_path / "ppo")
    assert 1e-9 < abs(first["objective/kl"]) < 0.05


def test_a_reward_model_goes_to_hugging_face_and_back(tmp_path):
    folder = export(tmp_path / "theirs")
    options = ["--reward.likelihood", "None", "--context=96", "--data.comparisons=microworld"]
    config = few_steps(reward, f"--init-from={folder}", f"--run-dir={tmp_path / 'rm'}", *options)
    convert.main(config.run_dir, tmp_path / "ours")
    _, params, _ = load_model(config.run_dir)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "ours"), params)


def test_what_is_no_language_model_is_said(tmp_path):
    judge = export(tmp_path / "judge", scorer=True)
    with pytest.raises(UserError, match="holds a reward model, where a language model is needed"):
        few_steps(sft, f"--init-from={judge}", f"--run-dir={tmp_path / 'sft'}")
    assert not (tmp_path / "sft").exists()
    with pytest.raises(UserError, match="holds a language model, where a reward model is needed"):
        policy = export(tmp_path / "policy")
        few_steps(ppo, f"--init-from={policy}", f"--reward-from={policy}")
    with pytest.raises(UserError, match="--context 200 is more than the 128 tokens"):
        load_model_files(policy, context=200)
    with pytest.raises(UserError, match="write hf:ORG/NAME"):
        load_model_files("hf:nothing")


def test_computing_in_another_type(tmp_path):
    folder = export(tmp_path / "theirs")
    model, _ = load_model_files(folder, dtype="bfloat16")
    assert model.dtype == "bfloat16"
    assert load_params(folder)["embed"]["tokens"].dtype == np.float32


def test_a_whole_run_is_no_model_from_elsewhere(tmp_path):
    """It has a config.json, too. Break it: look for model.json alone."""
    folder = tmp_path / "run"
    (folder / "sft" / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text('{"stage": "rlhf"}')
    assert not is_foreign(folder) and is_foreign(export(tmp_path / "theirs"))

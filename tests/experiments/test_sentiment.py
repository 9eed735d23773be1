"""PPO on openings of documents, with a rule's rating and adapters, before and after."""

import json
import shutil

import chex
import numpy as np
import pytest

from experiments import ppo, sentiment
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.rl.policy_stage import scoring_of
from gpt_jax.tasks.sentiment import SENTIMENT
from gpt_jax.text import chat
from gpt_jax.train import checkpoint, command
from gpt_jax.train.origin import start_of
from tests.experiments.test_origin import export

pytestmark = pytest.mark.slow  # a whole run first


@pytest.fixture(scope="module", autouse=True)
def vader():
    pytest.importorskip("vaderSentiment", reason="pip install 'gpt_jax[sentiment]'")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Other people's model, which stands in for SmolLM2."""
    return export(tmp_path_factory.mktemp("base") / "base")


def config_of(base, folder, *options):
    arguments = ["--preset=smoke", "--mesh.data=1", f"--init-from={base}", "--lora.rank=4"]
    arguments += ["--context=96", f"--run-dir={folder}", *options]
    return command.parse(arguments, sentiment.presets, "")


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "sentiment"
    return folder, sentiment.main(config_of(base, folder, "--ppo.train.checkpoint-every=2"))


def test_before_and_after_are_of_the_same_held_out_openings(run):
    folder, results = run
    assert json.loads((folder / "results.json").read_text()) == results
    before, after, difference = (results[name] for name in ("before", "after", "difference"))
    assert difference[0] == pytest.approx(after[0] - before[0], abs=1e-9)
    assert results["openings"] == 8 and results["kl_bound"] == 10.0
    assert results["kl"][1] <= results["kl"][0] <= results["kl"][2]
    table = (folder / "samples.md").read_text().splitlines()
    assert len(table) == 2 + 8 and all(line.count(" | ") == 2 for line in table)
    openings = {row["prompt"][0]["content"] for row in SENTIMENT.rows("test")}
    assert {line.split(" | ")[0].removeprefix("| ") for line in table[2:]} <= openings


def test_it_begins_at_the_model_itself(run):
    """Invariant 3, of adapters, a host's reward and a value head of zeros."""
    (first, *_), folder = read_metrics(run[0] / "ppo"), run[0]
    assert abs(first["objective/kl"]) < 1e-6 and first["val/sampler_logprob_gap"] < 1e-5
    term = "objective/scores/gpt_jax.tasks.sentiment:compound"
    assert first[term] == pytest.approx(first["objective/scores"], abs=1e-6)
    heads = checkpoint.param_shapes_in(folder / "ppo")
    assert {name for name in heads if not name.endswith(("/a", "/b"))} == {
        "value/head/kernel_D",
        "value/head/bias",
    }


def test_a_stopped_run_goes_on_bitwise_and_a_finished_one_only_measures(run, base):
    """Invariant 6. Break it: draw the openings anew."""
    folder, results = run
    before = checkpoint.load_params(folder / "ppo")
    shutil.rmtree(checkpoint.newest_checkpoint(folder / "ppo"))  # back to step 2 of 4
    (folder / "ppo" / "finished").unlink()
    (folder / "results.json").unlink()
    again = sentiment.main(config_of(base, folder, "--ppo.train.checkpoint-every=2"))
    chex.assert_trees_all_equal(checkpoint.load_params(folder / "ppo"), before)
    same = ("before", "after", "kl", "kl_while_learning")
    assert {name: again[name] for name in same} == {name: results[name] for name in same}
    with pytest.raises(UserError, match="seed was 0 and is now 5"):
        sentiment.main(config_of(base, folder, "--seed=5"))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--data.prompts=mine.jsonl", "openings of its own; .* experiments.ppo --layout document"),
        ("--ppo.max-new-tokens=90", "leaves room for 6 of the context of 96; give a larger"),
        ("--reward=gpt_jax.tasks.sentiment:nothing", "cannot be imported"),
    ],
)
def test_what_cannot_work_ends_before_the_first_step(base, tmp_path, option, sentence):
    """Invariant 13."""
    with pytest.raises(UserError, match=sentence):
        sentiment.main(config_of(base, tmp_path / "x", option))
    assert not (tmp_path / "x" / "ppo").exists()


def prepared(config):
    """PPO's stage, before it is run."""
    start = start_of(config)
    scoring = scoring_of(config, start, None, None)
    return ppo.prepare(config, start, scoring, make_mesh(config.mesh)), start.tokenizer


def test_prompts_are_the_beginnings_of_documents(base, tmp_path):
    """Break it: leave `render` out of `online_stage`."""
    config = config_of(base, tmp_path / "x")
    stage = sentiment.stage_config(config, sentiment.write_openings(tmp_path))
    made, tokenizer = prepared(stage)
    tokens_BP = made.batch_at(0).prompts.tokens_BP
    ids = tokens_BP.ids[0][tokens_BP.segment_ids[0] > 0]
    row = SENTIMENT.rows("train")[made.row_numbers(0)[0]]
    asked = sentiment.opening(row)
    np.testing.assert_array_equal(ids, chat.render_opening(asked, tokenizer))
    assert tokenizer.decode(ids.tolist(), skip_special=False).endswith(asked)


def test_a_prompt_of_several_turns_is_no_beginning(base, tmp_path):
    turns = [{"role": role, "content": "Well?"} for role in ("user", "assistant", "user")]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": turns}) + "\n" * 2)
    config = config_of(base, tmp_path / "x", f"--data.prompts={tmp_path}/prompts.jsonl")
    data = sentiment.DataConfig(
        prompts=f"{tmp_path}/prompts.jsonl", test_prompts=f"{tmp_path}/prompts.jsonl"
    )
    with pytest.raises(UserError, match="prompt of 3 messages is no beginning of a document"):
        prepared(sentiment.stage_config(config, data))


def test_many_seeds_run_in_turn(base, tmp_path):
    config = config_of(base, tmp_path / "x", "--seeds=2", "--ppo.train.steps=1")
    results = sentiment.main(config)
    assert results["openings"] == 8
    assert len(list((tmp_path / "x").rglob("results.json"))) == 2


def test_a_model_that_knows_no_chat_can_be_asked(tmp_path):
    """Break it: let `--layout document` render turns."""
    base = export(tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["chat_template"]
    path.write_text(json.dumps(settings))
    data, folder = sentiment.write_openings(tmp_path / "data"), tmp_path / "x"
    made, tokenizer = prepared(sentiment.stage_config(config_of(base, folder), data))
    assert tokenizer.template is None and made.batch_at(0).prompts.rows_B.shape == (8,)
    with pytest.raises(UserError, match="no chat template"):
        prepared(sentiment.stage_config(config_of(base, folder, "--layout=chat"), data))

"""Stages that learn without a reward model: what is said before they begin, and what they leave."""

import json

import chex
import jax
import numpy as np
import pytest

from experiments import distill, dpo, kto
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import Checkpoints, load_params, save_model_files
from gpt_jax.train.comparisons import check_words
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.origin import load_model_files
from gpt_jax.train.record import record_config
from gpt_jax.train.served import open_run
from gpt_jax.train.state import TrainState
from gpt_jax.train.stop import Stop
from tests.losses.bag import Bag

STAGES = {"dpo": dpo, "kto": kto, "distill": distill}
QUESTIONS = [f"what is number {n}?" for n in range(120)]
WORDS = [f"it is {n}." for n in range(10)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Data, and run folders: a student, a teacher of its tokenizer, a stranger, a short one."""
    folder = tmp_path_factory.mktemp("offline")
    pairs = [
        {"prompt": q, "completions": ["yes.", "it is.", "no."], "ranks": [0, 1, n % 2 + 1]}
        for n, q in enumerate(QUESTIONS)
    ]
    write(folder / "pairs.jsonl", pairs)
    demonstrations = [{"prompt": q, "completion": "yes."} for q in QUESTIONS]
    write(folder / "chats.jsonl", demonstrations)
    tokenizer = Tokenizer.train(QUESTIONS + WORDS, 264)
    other = Tokenizer.train(WORDS * 9, 264)
    shape = dict(vocab_size=264, context_length=48)
    transformer = ModelConfig(**shape, width=16, layers=1, heads=2)
    for name, model, of in (
        ("student", Bag(**shape), tokenizer),
        ("teacher", Bag(**shape, width=24), tokenizer),
        ("stranger", Bag(**shape), other),
        ("short", Bag(vocab_size=264, context_length=32), tokenizer),
        ("transformer", transformer, tokenizer),
    ):
        save(folder / name, model, of)
    return folder


def save(folder, model, tokenizer):
    """A run folder as a finished stage leaves one."""
    folder.mkdir()
    seed = len(folder.name)
    record_config(folder, "sft", dpo.smoke())
    save_model_files(folder, model, tokenizer)
    params = init(model, jax.random.key(seed))
    state = TrainState.create(params, make_optimizer(OptimizerConfig(), 1, axes_of(model)))
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state)
    checkpoints.close()


def config_of(name, here, run_dir, *options, student="student"):
    options = [
        *("--preset=smoke", "--mesh.data=1", f"--init-from={here / student}"),
        *(f"--run-dir={run_dir}", f"--data.demonstrations={here}/chats.jsonl"),
        *(f"--{name}.train.steps=6", f"--{name}.train.log-every=1"),
        *([f"--teacher-from={here}/teacher"] if name == "distill" else []),
        *([f"--data.comparisons={here}/pairs.jsonl"] if name != "distill" else []),
        *options,
    ]
    return command.parse(options, STAGES[name].presets, "")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_stops_and_goes_on_to_the_same_end(name, here, tmp_path, monkeypatch):
    """Invariant 6; and what is served from its folder is the policy. Break it: leave the reference
    out of `frozen`, and take it from the state."""
    whole, broken = (config_of(name, here, tmp_path / end) for end in ("whole", "broken"))
    STAGES[name].main(whole)
    calls = iter(range(100))
    with monkeypatch.context() as stopping:
        stopping.setattr(Stop, "wanted", lambda stop: next(calls) == 1)
        with pytest.raises(SystemExit):
            STAGES[name].main(broken)
    STAGES[name].main(broken)
    ours, theirs = (load_params(tmp_path / end) for end in ("whole", "broken"))
    chex.assert_trees_all_equal(ours, theirs)
    begun = load_params(here / "student")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ours, begun)
    assert min(jax.tree.leaves(moved)) > 0 and ours.keys() == begun.keys()
    assert open_run(tmp_path / "whole").layout == "chat"
    assert load_model_files(tmp_path / "whole") == load_model_files(here / "student")
    rows = read_metrics(tmp_path / "whole")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 7))
    assert "eval/loss" in rows[-1] and (tmp_path / "whole" / "report.html").is_file()
    if name == "dpo":
        assert rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)


@pytest.mark.slow
def test_a_student_learns_from_its_own_samples(here, tmp_path):
    """On-policy the divergence on demonstrations falls, too, where the teacher is no stranger."""
    options = ("--distill.on-policy", "--distill.train.steps=30", "--distill.max-new-tokens=8")
    config = config_of("distill", here, tmp_path / "run", *options, student="transformer")
    distill.main(config)
    rows = read_metrics(tmp_path / "run")
    assert rows[-2]["loss"] < 0.9 * rows[0]["loss"]
    assert 0 <= rows[0]["val/num_eos_tokens"] <= 1 and rows[0]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("dpo", ["--dpo.gamma=1"], "gamma is no option of dpo, which has beta and label_smoothing"),
        ("dpo", ["--dpo.loss=orpo", "--dpo.beta=1"], "beta is no option of orpo"),
        ("dpo", ["--dpo.loss=ipo", "--dpo.label-smoothing=0.1"], "no option of ipo"),
        ("dpo", ["--dpo.label-smoothing=0.5"], "label_smoothing is 0.5, but must be"),
        ("dpo", ["--dpo.longest=3"], "none of the comparisons fits in 3 tokens"),
        ("dpo", ["--labels-from=nowhere"], "both name comparisons"),
        ("kto", ["--kto.desirable-weight=0", "--kto.undesirable-weight=0"], "are both 0"),
        ("kto", ["--data.feedback=thumbs.jsonl"], "--data.feedback names what is learned from"),
        ("distill", ["--distill.jsd-beta=0.5"], "jsd_beta is no option of forward"),
        ("distill", ["--teacher-from={here}/stranger"], "has another tokenizer than"),
        ("distill", ["--teacher-from={here}/short"], "reads 32 tokens, .* 48; give --context 32"),
        ("distill", ["--teacher-from={here}/nowhere"], "there is no model here"),
        (
            "distill",
            ["--distill.on-policy", "--distill.max-new-tokens=48"],
            "leaves no room for a prompt",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    name, options, sentence, here, tmp_path
):
    """Invariants 12 and 13."""
    options = [option.format(here=here) for option in options]
    with pytest.raises(UserError, match=sentence):
        STAGES[name].main(config_of(name, here, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_an_answer_without_a_token_is_named():
    """One that is empty and did not stop, in a template that puts nothing in front of words."""
    weights_BKT = np.ones((3, 2, 4), np.float32)
    weights_BKT[1:, 1] = 0
    there_BK = np.array([[True, True], [True, False], [True, True]])
    with pytest.raises(UserError, match="row 8 of the pairs has a completion of no tokens at all"):
        check_words(weights_BKT, there_BK, np.array([2, 5, 7]), "pairs")
    check_words(weights_BKT[:2], there_BK[:2], np.array([2, 5]), "pairs")


def test_marked_answers_are_read_from_a_file(here, tmp_path):
    rows = [
        {"prompt": q, "completion": WORDS[n % 10], "label": n % 2 == 0}
        for n, q in enumerate(QUESTIONS)
    ]
    path = write(tmp_path / "thumbs.jsonl", rows)
    config = config_of("kto", here, tmp_path / "run")
    data = type(config.data)(feedback=str(path))
    kto.main(
        kto.Config(**command.shared(config, data=data), init_from=config.init_from, kto=config.kto)
    )
    row = read_metrics(tmp_path / "run")[-2]
    margin = row["rewards/chosen"] - row["rewards/rejected"]
    assert row["rewards/margins"] == pytest.approx(margin)


def test_only_what_a_loss_needs_is_held(here):
    """ORPO and SimPO load no reference."""
    for name in dpo.LOSSES:
        config = config_of("dpo", here, here / "none", f"--dpo.loss={name}")
        start, mesh = load_model_files(here / "student"), make_mesh(config.mesh)
        stage = dpo.prepare(config, start, mesh)
        held = set(stage.load(mesh).frozen)
        assert (
            held == set(stage.shapes.frozen) == ({"reference"} if name in ("dpo", "ipo") else set())
        )

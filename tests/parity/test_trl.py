"""Preference losses and divergences against TRL's own, on the same tensors.

DPO and KTO of TRL are methods of trainers that ask a model: here they are called without a trainer,
with models that answer with given log-probabilities.

Where we differ on purpose:
  KTO     TRL estimates the KL on each device and micro-batch, and averages: ours is that of the
          whole batch, so that no division of it changes an update. Here there is one division.
  ORPO    TRL's first term is the mean over all tokens of a batch, the prompt's among them; ours is
          the mean over completions of their mean over tokens, as in the paper, and a prompt is not
          learned. The odds ratio is the same.
  cDPO    TRL has dropped it from DPO; its CPO trainer has the same formula.
"""

import collections
import contextlib
import types

import numpy as np
import pytest

trl = pytest.importorskip("trl")
torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from trl import DPOTrainer, KTOTrainer  # noqa: E402
from trl.experimental.cpo import CPOTrainer  # noqa: E402
from trl.experimental.gkd import GKDTrainer  # noqa: E402
from trl.experimental.orpo import ORPOTrainer  # noqa: E402

from gpt_jax.losses import kto, preference  # noqa: E402
from gpt_jax.losses.distillation import divergences  # noqa: E402
from gpt_jax.metrics import mean  # noqa: E402

B, P, T = 5, 4, 12  # prompts, tokens of a prompt, tokens in all
LENGTHS = np.random.default_rng(7).integers(1, T - P + 1, (B, 2))
RANKS = np.tile([0, 1], (B, 1))


class Accelerator:
    """Of one process."""

    device = torch.device("cpu")

    def gather(self, x):
        return x

    gather_for_metrics = gather


def token_logps(seed):
    """Log-probabilities of the completions' tokens, 0 elsewhere: float64 (B, 2, T)."""
    values = -np.random.default_rng(seed).exponential(0.5, (B, 2, T))
    return values * completion_mask()


def completion_mask():
    place = np.arange(T)
    return (place >= P) & (place < P + LENGTHS[:, :, None])


def model_of(logps_BT):
    """What TRL's fused head gives, of given log-probabilities of the tokens after the first."""
    logps = torch.from_numpy(logps_BT[:, 1:])
    zeros = torch.zeros_like(logps)
    answer = types.SimpleNamespace(
        log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    return lambda **kwargs: answer


def trainer(**fields):
    """As much of a trainer as a loss asks for."""
    shared = dict(
        model=types.SimpleNamespace(training=True),
        accelerator=Accelerator(),
        args=types.SimpleNamespace(
            gradient_checkpointing_kwargs=None, gradient_checkpointing=False
        ),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        _metrics={"train": collections.defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        label_smoothing=0.0,
    )
    return types.SimpleNamespace(**(shared | fields))


@pytest.fixture(autouse=True)
def without_checkpointing(monkeypatch):
    """A model that is no model has no gradient checkpointing to turn off."""
    for of in (DPOTrainer, KTOTrainer):
        scope = of._compute_loss.__globals__
        monkeypatch.setitem(
            scope, "disable_gradient_checkpointing", lambda *_: contextlib.nullcontext()
        )
        monkeypatch.setitem(scope, "is_peft_model", lambda _: False)


def both(x_B2T):
    """The better ones, then the worse ones, as TRL stacks them."""
    return np.concatenate([x_B2T[:, 0], x_B2T[:, 1]])


def theirs_of_dpo(loss_type, beta):
    policy, reference, mask = token_logps(0), token_logps(1), completion_mask()
    fake = trainer(
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        ref_model=model_of(both(reference)),
    )
    tokens = torch.zeros(2 * B, T, dtype=torch.long)
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "completion_mask": torch.from_numpy(both(mask).astype(np.int64)),
    }
    loss = DPOTrainer._compute_loss(fake, model_of(both(policy)), inputs, False)
    return float(loss), {name: values[0] for name, values in fake._metrics["train"].items()}


def sums(seed):
    return jnp.asarray(token_logps(seed).sum(-1))


METRICS = [f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")]
METRICS += ["logps/chosen", "logps/rejected"]


@pytest.mark.parametrize(("name", "loss_type"), [("dpo", "sigmoid"), ("ipo", "ipo")])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_and_ipo(name, loss_type, beta):
    loss, metrics = theirs_of_dpo(loss_type, beta)
    with jax.enable_x64(True):
        ratios = sums(0) - sums(1)
        lengths = () if name == "dpo" else (jnp.asarray(LENGTHS),)
        found = getattr(preference, name)(ratios, *lengths, beta=beta)
        found = found._replace(logps_BK=sums(0))
        ours = mean(preference.over_pairs(found, jnp.asarray(RANKS))[2])
    assert ours["loss"] == pytest.approx(loss, rel=1e-6)
    assert {n: ours[n] for n in METRICS} == pytest.approx(
        {n: metrics[n] for n in METRICS}, rel=1e-6
    )


def theirs_of_cpo(means_B2, **fields):
    fake = trainer(alpha=0.0, **fields)
    losses, chosen, rejected = CPOTrainer.cpo_loss(fake, *torch.from_numpy(means_B2.T.copy()))
    return float(losses.mean()), float(chosen.mean()), float(rejected.mean())


def test_cdpo_and_simpo():
    with jax.enable_x64(True):
        ratios = sums(0) - sums(1)
        cdpo = preference.dpo(ratios, beta=0.3, label_smoothing=0.2)
        means = sums(0) / LENGTHS
        simpo = preference.simpo(means, beta=2.0, gamma=0.8)
        ours = [mean(preference.over_pairs(one, jnp.asarray(RANKS))[2]) for one in (cdpo, simpo)]
        arrays = [np.asarray(x) for x in (ratios, means)]
    theirs = [
        theirs_of_cpo(arrays[0], beta=0.3, loss_type="sigmoid", label_smoothing=0.2),
        theirs_of_cpo(arrays[1], beta=2.0, loss_type="simpo", simpo_gamma=0.8),
    ]
    for mine, there in zip(ours, theirs, strict=True):
        keys = ("loss", "rewards/chosen", "rewards/rejected")
        assert tuple(mine[key] for key in keys) == pytest.approx(there, rel=1e-6)


def test_the_odds_ratio_of_orpo():
    """TRL computes it in float32."""
    with jax.enable_x64(True):
        means = sums(0) / LENGTHS
        found = preference.orpo(means, odds_weight=0.7)
        ours = mean(preference.over_pairs(found, jnp.asarray(RANKS))[2])
        means = np.asarray(means)
    losses, chosen, rejected, ratio, odds = ORPOTrainer.odds_ratio_loss(
        trainer(beta=0.7), *torch.from_numpy(means.T.copy())
    )
    assert ours["loss"] - ours["nll_loss"] == pytest.approx(-float(losses.mean()), rel=2e-5)
    assert ours["rewards/chosen"] == pytest.approx(float(chosen.mean()), rel=1e-6)
    assert ours["rewards/rejected"] == pytest.approx(float(rejected.mean()), rel=1e-6)
    assert ours["log_odds_ratio"] == pytest.approx(float(ratio), rel=2e-5)
    assert ours["log_odds_chosen"] == pytest.approx(float(odds), rel=2e-5)
    assert ours["nll_loss"] == pytest.approx(-means[:, 0].mean(), rel=1e-6)


def test_kto():
    policy, reference, mask = token_logps(0), token_logps(1), completion_mask()
    labels = np.array([True, False, False, True, True])
    options = dict(beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    fake = trainer(
        calculate_KL=True, loss_type="kto", ref_model=model_of(reference[:, 0]), **options
    )
    mismatched = iter([policy[:, 1], reference[:, 1]])  # of the policy first
    fake._compute_kl_logps = lambda model, batch: torch.from_numpy(next(mismatched).sum(-1))
    tokens = torch.zeros(B, T, dtype=torch.long)
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "completion_mask": torch.from_numpy(mask[:, 0].astype(np.int64)),
        "label": torch.from_numpy(labels),
    }
    loss = float(KTOTrainer._compute_loss(fake, model_of(policy[:, 0]), inputs, False))
    theirs = {name: values[0] for name, values in fake._metrics["train"].items()}
    with jax.enable_x64(True):
        ratios = sums(0) - sums(1)
        kl = jnp.maximum(ratios[:, 1].mean(), 0.0)
        signs = jnp.where(jnp.asarray(labels), 1, -1)
        losses, rewards = (np.asarray(x) for x in kto.kto(ratios[:, 0], signs, kl, **options))
    assert losses.mean() == pytest.approx(loss, rel=1e-6)
    assert float(kl) == pytest.approx(theirs["kl"], rel=1e-6) and float(kl) > 0
    assert rewards[labels].mean() == pytest.approx(theirs["rewards/chosen"], rel=1e-6)
    assert rewards[~labels].mean() == pytest.approx(theirs["rewards/rejected"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "beta"), [("forward", 0), ("reverse", 1), ("jsd", 0.5), ("jsd", 0.1)]
)
def test_divergences(name, beta):
    """Their beta is ours; at its ends theirs are the KL divergences."""
    teacher, student = np.random.default_rng(3).normal(size=(2, 2, 6, 9)) * 2
    with jax.enable_x64(True):
        p, q = (jax.nn.log_softmax(jnp.asarray(x)) for x in (teacher, student))
        ours = float(divergences(p, q, beta or 0.5)[name].mean())
    theirs = GKDTrainer.generalized_jsd_loss(
        torch.from_numpy(student), torch.from_numpy(teacher), beta=beta, reduction="sum"
    )
    assert ours == pytest.approx(float(theirs) / 12, rel=1e-6)

"""Preference losses as loops over prompts and pairs in float64, without JAX."""

import numpy as np


def log_sigmoid(x):
    return -np.log1p(np.exp(-x)) if x > 0 else x - np.log1p(np.exp(x))


def dpo(logp, ref, length, beta, label_smoothing=0.0):
    def loss(i, j):
        margin = beta * ((logp[i] - ref[i]) - (logp[j] - ref[j]))
        return -(1 - label_smoothing) * log_sigmoid(margin) - label_smoothing * log_sigmoid(-margin)

    return loss, lambda i: beta * (logp[i] - ref[i]), lambda i: logp[i]


def ipo(logp, ref, length, beta):
    def loss(i, j):
        better, worse = ((logp[k] - ref[k]) / length[k] for k in (i, j))
        return (better - worse - 1 / (2 * beta)) ** 2

    return loss, lambda i: beta * (logp[i] - ref[i]), lambda i: logp[i]


def orpo(logp, ref, length, odds_weight):
    def odds(k):
        p = np.exp(logp[k] / length[k])
        return p / (1 - p)

    def loss(i, j):
        ratio = np.log(odds(i) / odds(j))
        return -logp[i] / length[i] - odds_weight * log_sigmoid(ratio)

    return loss, lambda i: odds_weight * logp[i] / length[i], lambda i: logp[i] / length[i]


def simpo(logp, ref, length, beta, gamma):
    def reward(i):
        return beta / length[i] * logp[i]

    def loss(i, j):
        return -log_sigmoid(reward(i) - reward(j) - gamma)

    return loss, reward, lambda i: logp[i] / length[i]


def over_pairs(method, logps, refs, lengths, ranks, **options):
    """{metric: mean} of a batch, the loss's among them."""
    losses = []
    found = {
        name: [] for name in ("chosen", "rejected", "margins", "accuracies", "better", "worse")
    }
    for logp, ref, length, rank in zip(logps, refs, lengths, ranks, strict=True):
        loss, reward, told = method(logp, ref, length, **options)
        places = range(len(rank))
        pairs = [(i, j) for i in places for j in places if 0 <= rank[i] < rank[j]]
        if pairs:
            losses.append(np.mean([loss(i, j) for i, j in pairs]))
        for i, j in pairs:
            found["chosen"].append(reward(i))
            found["rejected"].append(reward(j))
            found["margins"].append(reward(i) - reward(j))
            found["accuracies"].append(np.heaviside(reward(i) - reward(j), 0.5))
            found["better"].append(told(i))
            found["worse"].append(told(j))
    rewards = ("chosen", "rejected", "margins", "accuracies")
    return {
        "loss": np.mean(losses),
        **{f"rewards/{name}": np.mean(found[name]) for name in rewards},
        "logps/chosen": np.mean(found["better"]),
        "logps/rejected": np.mean(found["worse"]),
    }


def kto(logps, refs, signs, kl, beta, desirable_weight=1.0, undesirable_weight=1.0):
    """The mean loss of the rows that there are."""
    losses = []
    for logp, ref, sign in zip(logps, refs, signs, strict=True):
        gain = beta * (logp - ref - kl)
        if sign == 1:
            losses.append(desirable_weight * (1 - 1 / (1 + np.exp(-gain))))
        elif sign == -1:
            losses.append(undesirable_weight * (1 - 1 / (1 + np.exp(gain))))
    return np.mean(losses)

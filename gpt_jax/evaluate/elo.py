"""Who beats whom: Bradley-Terry strengths of models from games between them, on Elo's scale.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))          (Bradley & Terry 1952; Elo 1978)

The ratings are the most likely ones for all games at once, in whatever order these were played, and
are 1,000 on average. A tie is half a win for each. Intervals come from the Bayesian bootstrap
(Rubin 1981): prompts are weighed by Dirichlet draws, under which every game keeps some weight, so
that where the games have a most likely rating, each draw has one, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_jax.data.local_files import json_lines
from gpt_jax.errors import UserError
from gpt_jax.evaluate.statistics import Interval

MEAN, SCALE = 1000.0, 400.0 / math.log(10.0)
STEPS = 100  # of Newton's method, which needs some ten


class Game(NamedTuple):
    """Two models' answers to one prompt, compared.

    Attributes:
      first, second: the models.
      score: 1 if the first one's is better, 0 if the second one's, 0.5 for a tie.
      about: games of one id are decided together, and are weighed together.
    """

    first: str
    second: str
    score: float
    about: Hashable


class Rating(NamedTuple):
    """How strong a model is.

    Attributes:
      name: of the model.
      rating: [most likely, low, high], a 95% interval; None for its ends where all games are
        about one thing.
      games: that it played.
      won: the share of them that it won, ties being half.
    """

    name: str
    rating: Interval
    games: int
    won: float


def ratings(games: Sequence[Game], seed: int = 0, draws: int = 1000) -> list[Rating]:
    """The ratings of all models that played, the best first.

    Args:
      games: in any order.
      seed: of the draws.
      draws: of the bootstrap.

    Raises:
      UserError: if there is no game, or some models won all their games against the others, so
        that no finite rating is the most likely one.
    """
    if not games:
        raise UserError("there is no game between two models; give some")
    names = sorted({name for game in games for name in (game.first, game.second)})
    place = {name: i for i, name in enumerate(names)}
    about = {key: g for g, key in enumerate(dict.fromkeys(game.about for game in games))}
    wins_GKK = np.zeros((len(about), len(names), len(names)))
    for game in games:
        i, j, g = place[game.first], place[game.second], about[game.about]
        if i == j or not 0.0 <= game.score <= 1.0:
            raise UserError(f"{game} is no game; give two models and a score of 0 to 1")
        wins_GKK[g, i, j] += game.score
        wins_GKK[g, j, i] += 1.0 - game.score
    wins_KK = wins_GKK.sum(axis=0)
    _refuse_unbounded(wins_KK, names)
    rated_K = MEAN + SCALE * strengths(wins_KK)
    ends_K2: Sequence = [(None, None)] * len(names)
    if len(about) > 1:
        rng = np.random.default_rng(seed)
        weights_RG = len(about) * rng.dirichlet(np.ones(len(about)), draws)
        drawn_RK = np.stack(
            [strengths(np.tensordot(weights_G, wins_GKK, 1)) for weights_G in weights_RG]
        )
        ends_K2 = np.percentile(MEAN + SCALE * drawn_RK, [2.5, 97.5], axis=0).T.tolist()
    played_K, won_K = (wins_KK + wins_KK.T).sum(axis=1), wins_KK.sum(axis=1)
    found = [
        Rating(name, [float(rated_K[k]), *ends_K2[k]], round(played_K[k]), won_K[k] / played_K[k])
        for k, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: -one.rating[0])


def strengths(wins_KK: np.ndarray) -> np.ndarray:
    """The strengths s_K, with mean 0, that make some games most likely.

        log L = sum_ij w_ij log sigmoid(s_i - s_j)

    is concave; Newton's method with steps that are halved until they gain finds its top.

    Args:
      wins_KK: float64; how often (with what weight) i beat j.
    """
    wins_KK = np.asarray(wins_KK, np.float64)
    games_KK = wins_KK + wins_KK.T

    def likelihood(s_K: np.ndarray) -> float:
        return float((wins_KK * -np.logaddexp(0.0, s_K[None] - s_K[:, None])).sum())

    s_K = np.zeros(len(wins_KK))
    value = likelihood(s_K)
    for _ in range(STEPS):
        p_KK = 1.0 / (1.0 + np.exp(s_K[None] - s_K[:, None]))
        slope_K = (wins_KK - games_KK * p_KK).sum(axis=1)
        curve_KK = games_KK * p_KK * (1.0 - p_KK)
        curve_KK = np.diag(curve_KK.sum(axis=1)) - curve_KK
        # Only differences count: along the constant vector there is no curvature.
        step_K = np.linalg.lstsq(curve_KK, slope_K, rcond=None)[0]
        if np.abs(step_K).max() < 1e-10:
            break
        while (new := likelihood(s_K + step_K)) < value and np.abs(step_K).max() > 1e-12:
            step_K = step_K / 2
        s_K, value = s_K + step_K, new
    return s_K - s_K.mean()


def _refuse_unbounded(wins_KK: np.ndarray, names: Sequence[str]) -> None:
    """Ford's condition (1957): along wins there is a way from every model to every other."""
    reached_KK = (wins_KK > 0) | np.eye(len(names), dtype=bool)
    for _ in names:
        reached_KK = reached_KK @ reached_KK
    for k, name in enumerate(names):
        unbeaten = [names[j] for j in np.flatnonzero(~reached_KK[:, k])]
        if unbeaten:
            raise UserError(
                f"{', '.join(unbeaten)} never lost, or did not play, against {name} or whom it "
                "beat, so that no rating is high enough; gather more games, or leave one out"
            )


def read_votes(path: str | Path) -> list[Game]:
    """The games in the `comparisons.jsonl` that the web page's votes are written to.

    Votes on the same conversation are decided together.

    Raises:
      UserError: naming the file and the row, if that is no vote, or does not say on whom.
    """
    path, games = Path(path), []
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the one that --votes named")
    for where, row in json_lines(path):
        if isinstance(row, UserError):
            raise UserError(f"{where}: {row}") from row
        row = row if isinstance(row, dict) else {}
        models = [row.get(f"{side}_model") for side in ("chosen", "rejected")]
        if not all(isinstance(model, str) and model for model in models):
            raise UserError(
                f"{where} does not name its models under chosen_model and rejected_model; "
                "remove the row"
            )
        if models[0] != models[1]:  # a model against itself says nothing of the two
            games.append(Game(*models, 1.0, json.dumps(row.get("prompt"))))
    return games

"""Openings of movie reviews to go on with, and how positive what follows is.

    python -m experiments.ppo --layout document --reward gpt_jax.tasks.sentiment:compound ...

The task of Ziegler et al. 2019, section 3.1.1, where the rating of a trained classifier was the
reward. Here it is VADER's (Hutto & Gilbert 2014): a list of some 7,500 words with what people felt
at them, and rules for negation and emphasis. It needs no model, and is easy to please, so that the
KL penalty has something to do.

An opening is a frame with the name of a film in it. Held-out openings have other frames and other
films than those that are learned from; what is said of one frame is one cluster of an interval.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from gpt_jax.errors import UserError
from gpt_jax.tasks.task import Task
from gpt_jax.text.chat import Message

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

FILMS = {
    "train": (
        *("this thriller", "the new comedy", "this family drama", "the western"),
        *("this war film", "the musical", "this space adventure", "the detective story"),
    ),
    "test": ("this ghost story", "the road movie", "this courtroom drama", "the heist film"),
}
FRAMES = {
    "train": (
        "I saw {} last night, and",
        "The first half hour of {} is",
        "My sister and I watched {} together, and we",
        "I had read the book before I went to see {}, so",
        "The people who made {} have",
        "What I remember most of {} is",
        "After two hours of {} I",
        "The music in {} is",
        "The woman in the lead of {} is",
        "Everybody at work talked about {}, and now I know it",
        "When the lights went on after {}, the audience",
        "For someone who has seen many films, {} is",
        "The dialogue in {} sounds",
        "If you think of seeing {} tomorrow, you",
        "There is a scene on a bridge in {} that",
        "Having waited three years for {}, I",
        "The director of {} has made a film that",
        "My children asked me to take them to {}, and they",
        "The ending of {} made me",
        "Compared with the first part, {} is",
        "I watched {} on a long flight, and it",
        "The camera in {} moves",
        "In one word, {} is",
        "I would describe the plot of {} as",
    ),
    "test": (
        "Yesterday my brother took me to {}, and I",
        "From its opening shot on, {} feels",
        "The two brothers at the centre of {} are",
        "I did not know what to expect of {}, but it",
        "The last ten minutes of {} are",
        "As a portrait of a small town, {} is",
        "The costumes and sets of {} look",
        "It took me days to decide what I think of {}:",
        "Most of the cast of {} is",
        "Leaving the cinema after {}, I felt",
        "The script of {} was written by someone who",
        "My review of {} is going to be short:",
        "Whoever chose the songs for {}",
        "The middle part of {} seems",
        "I have now seen {} twice, and",
        "Its length of three hours makes {}",
        "The way in which {} tells its story is",
        "By most of its audience, {} was taken as",
        "What my parents said about {} was that it",
        "In the scenes without any words, {} becomes",
    ),
}


def rows(split: str) -> list[dict]:
    """Every frame of a split, "train" or "test", with each of its films."""
    return [
        {"prompt": [Message(role="user", content=_written(frame, film))], "frame": frame}
        for frame in FRAMES[split]
        for film in FILMS[split]
    ]


def _written(frame: str, film: str) -> str:
    text = frame.format(film)
    return text[0].upper() + text[1:]


def prompt(row: dict) -> list[Message]:
    """The opening of a row, as one message."""
    return row["prompt"]


def compound(record: dict, text: str, stopped: bool) -> float:
    """VADER's compound rating of a continuation alone: -1 all bad, 0 for no word that it knows, 1
    all good.

    Raises:
      UserError: if the package is missing.
    """
    del record, stopped
    return analyzer().polarity_scores(text)["compound"]


@functools.cache  # its list of words is read once
def analyzer() -> SentimentIntensityAnalyzer:
    """VADER.

    Raises:
      UserError: if the package is missing.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError(
            "the sentiment of a text is rated by the vaderSentiment package; pip install "
            "'gpt_jax[sentiment]'"
        ) from error
    return SentimentIntensityAnalyzer()


SENTIMENT = Task("sentiment", rows, prompt, compound, cluster=lambda row: row["frame"])

"""What a reward model must beat: rankings that need no language model."""

from __future__ import annotations

import itertools

import numpy as np


def pairs(rows: list[dict]) -> list[tuple[str, str]]:
    """(better, worse) completion texts of every comparison; ties are left out."""
    return [
        (row["completions"][i], row["completions"][j])
        for row in rows
        for i, j in itertools.permutations(range(len(row["completions"])), 2)
        if row["ranks"][i] < row["ranks"][j]
    ]


def longer_answer(rows: list[dict]) -> float:
    """Accuracy of "the longer answer (in characters) wins"; equal lengths count half."""
    lengths = np.array([[len(text) for text in pair] for pair in pairs(rows)])
    return float(np.mean(np.sign(lengths[:, 0] - lengths[:, 1]) / 2 + 0.5))


def bag_of_words(train: list[dict], test: list[dict]) -> float:
    """Accuracy of a linear Bradley-Terry model on TF-IDF vectors of the completions.

    Logistic regression on the difference of the two vectors, without an intercept, so that which
    answer stands first cannot matter. Answers without any word tell nothing: 0.5.
    """
    # Importing scikit-learn takes longer than most commands.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(max_features=20_000, sublinear_tf=True)
    train_pairs, test_pairs = pairs(train), pairs(test)
    texts = [text for pair in train_pairs for text in pair]
    tokenize = vectorizer.build_analyzer()
    if not any(tokenize(text) for text in texts):
        return 0.5
    vectorizer.fit(texts)

    def differences(some: list[tuple[str, str]]):
        better, worse = zip(*some, strict=True)
        return vectorizer.transform(better) - vectorizer.transform(worse)

    # Every pair in both orders, else there would be one class only.
    x = differences(train_pairs + [pair[::-1] for pair in train_pairs])
    y = np.repeat([1, 0], len(train_pairs))
    classifier = LogisticRegression(fit_intercept=False, max_iter=1000).fit(x, y)
    margins = classifier.decision_function(differences(test_pairs))
    return float(np.mean(np.sign(margins) / 2 + 0.5))

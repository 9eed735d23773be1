"""From answers of a model to comparisons: who ranks them, and how often two labelers agree."""

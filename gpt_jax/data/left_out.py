"""What was cut or left out, by kind: counted while rows are laid out, said once, and reported."""

from __future__ import annotations

from collections import Counter

SHORTENED = "shortened by their oldest turns to fit"
CUT = "cut within their last answer to fit"
DROPPED = "left out, as they do not fit"


class LeftOut(Counter):
    """{what: count}; every `what` is the rest of a sentence that begins with the count."""

    def add(self, how: str, name: str, total: int, limit: int, count: int = 1) -> None:
        """Counts rows that did not fit.

        Args:
          how: SHORTENED, CUT or DROPPED.
          name: of the rows, in the plural ("comparisons to train on").
          total: how many rows there were.
          limit: the tokens that they had to fit.
          count: how many more.
        """
        self[f"{name} {how} {limit} tokens (of {total:,})"] += count

    def entries(self) -> list[dict]:
        """As `data.json` holds it: [{"what", "count"}], without what did not happen."""
        return [{"what": what, "count": count} for what, count in self.items() if count]

    def sentences(self) -> list[str]:
        """For people."""
        return [f"{entry['count']:,} {entry['what']}" for entry in self.entries()]

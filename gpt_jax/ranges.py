"""The range of every number in a configuration, written beside the number.

    @dataclasses.dataclass(frozen=True)
    class Sampling:
        temperature: Annotated[float, Range(0.0)] = 1.0
        top_p: Annotated[float, Range(0.0, 1.0, open_low=True)] = 1.0

        def __post_init__(self):
            check_ranges(self)

`tests/test_ranges.py` sees to it that no number of any experiment's configuration goes without.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from gpt_jax.errors import UserError

SMALLEST, LARGEST = 2.0**-126, 2.0**128 - 2.0**104  # of the normal float32 numbers above 0


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a field may have; NaN and infinities are never among them, nor is what is one of
    these, or 0, once it is float32.

    Attributes:
      low, high: the bounds, themselves allowed; None: no bound.
      open_low, open_high: whether `low`, `high` themselves are not allowed.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the range has this number."""
        if not in_float32(value):
            return False
        below = self.low is not None and (value <= self.low if self.open_low else value < self.low)
        above = self.high is not None and (
            value >= self.high if self.open_high else value > self.high
        )
        return not below and not above

    def __str__(self) -> str:
        bounds = []
        if self.low is not None:
            bounds.append(f"{'more than' if self.open_low else 'at least'} {self.low:g}")
        if self.high is not None:
            bounds.append(f"{'less than' if self.open_high else 'at most'} {self.high:g}")
        return " and ".join(bounds) or "finite"


Positive = Annotated[int, Range(1, 2**31 - 1)]
NonNegative = Annotated[int, Range(0, 2**31 - 1)]
Fraction = Annotated[float, Range(0.0, 1.0)]
PositiveFloat = Annotated[float, Range(0.0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0.0)]


def in_float32(value: float) -> bool:
    """Whether a number is still finite, and not 0 unless it was, as what devices compute with."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def check_ranges(config: Any) -> None:
    """Checks every ranged field of a dataclass; None is left to the field's type.

    Raises:
      UserError: naming the first field whose number is out of its range, and the range.
    """
    for name, allowed in ranges(type(config)).items():
        value = getattr(config, name)
        if value is not None and not allowed.holds(value):
            precision = "" if in_float32(value) else ", also in float32"
            raise UserError(f"{name} is {value}, but must be {allowed}{precision}; change it")


@functools.cache
def ranges(kind: type) -> dict[str, Range]:
    """The ranges of a dataclass's fields, by name."""
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: _range_of(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: allowed for name, allowed in found.items() if allowed}


def _range_of(hint: Any) -> Range | None:
    """The Range in `Annotated[int, Range(1)]`, also inside `... | None`."""
    if get_origin(hint) is Annotated:
        return next((part for part in get_args(hint)[1:] if isinstance(part, Range)), None)
    return next((found for part in get_args(hint) if (found := _range_of(part))), None)

"""Numbers as people read them, for the progress line and the report alike."""


def clock(seconds: float) -> str:
    """Writes seconds as "0:07", "12:34" or "1:02:03"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def short(number: float) -> str:
    """Writes 950 as "950", 41_234 as "41.2k" and 3_400_000 as "3.4M"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"

"""A few answers to rank."""


def row(number: int, *completions: str, split: str = "train", stopped=None) -> dict:
    """One prompt with its answers, which ended by themselves unless `stopped` says otherwise."""
    return {
        "split": split,
        "prompt": [{"role": "user", "content": f"What is number {number}?"}],
        "record": {"prompt": f"What is number {number}?"},
        "completions": list(completions),
        "stopped": stopped or [True] * len(completions),
    }


HOSTILE = "</script><script>document.title = 'broken'</script><!--<b>&amp;\u2028"
ROWS = [
    row(0, "one", "two", "one", "three"),
    row(1, "the same", "the same", "the same"),
    row(2, HOSTILE, "plain", "", "  \n "),
    row(3, "cut", "cut", split="test", stopped=[True, False]),
]

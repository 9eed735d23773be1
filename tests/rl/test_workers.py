"""Rules that raise, hang, fork or end their process cost their row and nothing else."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_jax.errors import UserError
from gpt_jax.rl.workers import Failure, RuleProcess, ask_here


def good(record, text, stopped):
    return len(text) + record["plus"]


def raises(record, text, stopped):
    return record["nothing"]


def hangs(record, text, stopped):
    return re.match(r"(a+)+$", "a" * 40 + "b")


def hangs_in_c(record, text, stopped):
    return sum(range(10**12))


def leaves(record, text, stopped):
    os._exit(3)


def crashes(record, text, stopped):
    os.kill(os.getpid(), 11)


def exits(record, text, stopped):
    sys.exit(4)


def forks(record, text, stopped):
    os.fork()
    return 2.0


def background(record, text, stopped):
    subprocess.Popen(["sleep", "531"])
    return 1


def gives_nan(record, text, stopped):
    return float("nan")


def gives_nothing(record, text, stopped):
    pass


def gives_words(record, text, stopped):
    return "a lot"


def prints(record, text, stopped):
    print("something")
    return True


# For the tests of others, too: this file is quickly imported in another process.
def length(record, text, stopped):
    return len(text)


def only_first(record, text, stopped):
    return 1.0 if record["prompt"][0]["content"] == "yes" else record["none"]


def raises_on_odd(record, text, stopped):
    if len(text) % 2:
        raise ValueError("odd")
    return len(text) / 10


def never(record, text, stopped):
    raise ValueError("never")


RULES = {
    good: 5.0,
    raises: "raised KeyError: 'nothing'",
    hangs: "took more than 0.7 s",
    hangs_in_c: "took more than 0.7 s",
    leaves: r"ended its process \(exit code 3\)",
    crashes: r"ended its process \(signal 11\)",
    exits: "raised SystemExit: 4",
    forks: 2.0,
    background: 1.0,
    gives_nan: "gave nan",
    gives_nothing: "gave None",
    gives_words: "gave 'a lot'",
    prints: 1.0,
}
ROW = ({"plus": 2}, "abc", True)


def running(what: str) -> bool:
    return bool(parents(what))


def test_whatever_a_rule_does_costs_its_row_alone():
    """Break it: ask the rules in the process that forks, or leave the `getpid` in `ask` out."""
    ask = RuleProcess(list(RULES), seconds=0.7, processes=2)
    numbers = [*range(len(RULES)), *reversed(range(len(RULES)))]
    found = ask([(number, *ROW) for number in numbers])
    assert len(found) == len(numbers)
    for score, number in zip(found, numbers, strict=True):
        expected = list(RULES.values())[number]
        if isinstance(expected, float):
            assert score == expected
        else:
            assert re.search(expected, score.why), (number, score)
    assert ask([(0, *ROW)] * 50) == [5.0] * 50  # it is as good as new
    if Path("/proc").is_dir():
        assert not running("sleep\x00531")


def test_rules_in_this_process():
    """A fork's second process must not go on with the run: break the `os._exit` in `_ask`."""
    assert ask_here(good, [ROW, ROW]) == [5.0, 5.0]
    for rule in (raises, exits, gives_nan, gives_nothing, gives_words):
        [failure] = ask_here(rule, [ROW])
        assert re.search(RULES[rule], failure.why)
    assert ask_here(forks, [ROW]) == [2.0]
    begin = time.monotonic()
    assert ask_here(hangs, [ROW], 0.2) == [Failure("gave no score: it took more than 0.2 s")]
    assert time.monotonic() - begin < 5
    with pytest.raises(KeyboardInterrupt):
        ask_here(interrupted, [ROW])


def interrupted(record, text, stopped):
    raise KeyboardInterrupt


def test_a_process_that_ends_is_one_sentence(capfd):
    class Unknown:
        def __reduce__(self):
            return (eval, ("1/0",))

    ask = RuleProcess([Unknown()])
    with pytest.raises(UserError, match="the process that asks the rewards ended"):
        ask([(0, *ROW)])
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to look at")
def test_nothing_of_it_outlives_a_run_that_is_killed(tmp_path):
    """Break it: leave `die_with_parent` out of `main` or of `fork`."""
    code = (
        "from gpt_jax.rl.workers import RuleProcess; from tests.rl.test_workers import sleeps\n"
        f"RuleProcess([sleeps], 600)([(0, {{'at': {str(tmp_path)!r}}}, '', True)])"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    until((tmp_path / "begun").is_file)
    run.kill()
    run.wait()
    until(lambda: not any(parent == 1 for parent in parents("worker.py")))


def sleeps(record, text, stopped):
    (Path(record["at"]) / "begun").touch()
    time.sleep(600)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def parents(what: str) -> list[int]:
    """The parents of the processes that have something on their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if what in (path / "cmdline").read_text():
                found.append(int((path / "stat").read_text().rpartition(")")[2].split()[1]))
    return found


def test_it_ends_with_the_run():
    ask = RuleProcess([good])
    ask([(0, *ROW)])
    process = ask._process
    del ask
    assert process.wait(10) == 0

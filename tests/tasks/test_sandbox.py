"""Code that means harm: what of it is refused, killed or cut, and that no cheat passes a test."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_jax.errors import UserError
from gpt_jax.tasks import sandbox
from gpt_jax.tasks.sandbox import Limits, run, run_tests
from gpt_jax.tasks.sandbox.child import decode, encode, undefined

PATIENT, QUICK = Limits(seconds=20), Limits(seconds=2)
MISSING = [name for name, by in sandbox.protections().items() if by is None]
confined = pytest.mark.skipif(bool(MISSING), reason=f"not to be had on this machine: {MISSING}")


def test_what_is_protected_is_reported():
    found = sandbox.protections()
    assert list(found) == list(sandbox.PROTECTIONS)
    assert all(by is None or isinstance(by, str) for by in found.values())


@confined
@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['true'])",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing as m; m.Process(target=print).start()",
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import socket; socket.socketpair()",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.killpg(0, 9)",
        "import signal; signal.pidfd_send_signal(0, 9)",
        "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
        "import os; os.nice(5)",
        "import os; os.symlink('/etc/passwd', 'x')",
        "import os; os.link('/etc/passwd', 'x')",
        "import os; os.mkdir('x')",
        "import os; os.chmod('.', 0o777)",
        "import os; os.chdir('/')",
        "import os; os.chroot('/')",
        "import os; os.setuid(0)",
        "import os; os.memfd_create('x')",
        "import os; os.mkfifo('x')",
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.ptrace(16, 1, 0, 0) >= 0",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/proc/1/mem', 'rb').read()",
        "import os; os.listdir('/')",
        "import os; os.listdir('/proc')",
        "open(__import__('os').__file__, 'a')",
        "open('/tmp/gpt_jax_sandbox_test', 'w')",
        "open('../gpt_jax_sandbox_test', 'w')",
        "import os; os.unlink('/etc/passwd')",
        "import os; os.rename('/etc/hostname', 'x')",
        "x = bytearray(10 * 2**30)",
        "import numpy",
        "open('x', 'wb').write(bytes(2**21))",
        "import os; [os.open('x', os.O_CREAT) for _ in range(100)]",
    ],
)
def test_what_is_not_allowed_is_refused(code):
    """Break it: name the call in `kernel.COMPUTING`, or leave the limit or the rule out."""
    outcome = run(f"{code}\nprint('done')", PATIENT)
    assert outcome.status == "failed" and "done" not in outcome.output, outcome
    assert "Error" in outcome.output


@confined
@pytest.mark.parametrize(
    "code, status",
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        ("import signal\nsignal.alarm(60); signal.pause", "passed"),
        ("import os; os.close(1); os.close(2)\nwhile True: pass", "time"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
        ("for i in range(10**6):\n    with open(str(i), 'w') as f: f.write('x' * 10**5)", "files"),
        ("import os; os._exit(0)", "passed"),
        ("import os; os._exit(5)", "failed"),
        ("import sys; print(sys.stdin.read() == '')", "passed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
        ("import os; print(len(os.environ), os.getcwd())", "passed"),
        ("import math, json, collections, re, datetime, random, itertools, heapq", "passed"),
        ("open('x', 'w').write('a'); assert open('x').read() == 'a'", "passed"),
        ("import os; open('x', 'w'); os.rename('x', 'y'); os.unlink('y')", "passed"),
    ],
)
def test_what_takes_too_much_is_killed(code, status):
    begin = time.monotonic()
    outcome = run(code, Limits(seconds=1) if status == "time" else PATIENT)
    assert outcome.status == status, outcome
    assert time.monotonic() - begin < 20
    assert len(outcome.output) <= QUICK.output


@confined
def test_time_of_a_core_is_limited_by_itself():
    assert run("while True: pass", Limits(seconds=30, cpu_seconds=1)).code in (-9, -24)


@confined
def test_nothing_of_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    run("import time; open('x', 'w'); time.sleep(60)", Limits(seconds=1))
    assert not list(tmp_path.iterdir())


@confined
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux does it")
def test_it_ends_with_the_process_that_started_it():
    """Break it: leave `die_with_parent` out."""
    code = (
        "from gpt_jax.tasks import sandbox\n"
        "import os, threading, time\n"
        "threading.Timer(1.5, lambda: os._exit(1)).start()\n"
        "sandbox.run('import time, os; print(os.getpid()); time.sleep(47)',"
        " sandbox.Limits(seconds=60))"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60)
    time.sleep(0.5)
    left = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if str(sandbox.CHILD) in Path(f"/proc/{name}/cmdline").read_text():
                left.append(
                    int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                )
    assert 1 not in left  # which would be the parent of one that had been left behind


@confined
def test_without_landlock_nothing_is_written_at_all(tmp_path):
    """Break it: leave the `openat` out of `_filter`."""
    code = (
        f"import sys, dataclasses; sys.path.insert(0, {str(sandbox.CHILD.parent)!r})\n"
        "import kernel\n"
        "kernel._landlock = lambda *arguments: None\n"
        f"active = kernel.confine('.', {dataclasses.asdict(Limits())!r})\n"
        "print('reads' in active, active['writes'], open('/etc/passwd').read(1) != '')\n"
        "for attempt in ('x', '/tmp/x'):\n"
        "    for mode in ('w', 'a', 'x', 'r+'):\n"
        "        try: open(attempt, mode)\n"
        "        except PermissionError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    first, *refused = done.stdout.splitlines()
    assert first == "False seccomp: no file is opened for writing True", done.stderr
    assert refused == ["refused"] * 8 and not list(tmp_path.iterdir())


ADD = "def add(a, b): return a + b"
TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add([1], [2]) == [1, 2]"


@confined
@pytest.mark.parametrize(
    "solution",
    [
        "def add(a, b): return a - b",
        "def add(a, b): raise ValueError",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "def add(a, b):\n    import sys; sys.exit(0)",
        "def add(a, b):\n    import os; os._exit(0)",
        "raise SystemExit(0)",
        "class All:\n    def __eq__(self, other): return True\ndef add(a, b): return All()",
        "class Zero(int):\n    def __eq__(self, other): return True\n"
        "    __hash__ = int.__hash__\ndef add(a, b): return Zero(7)",
        "import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return 9",
        "import sys\nsys.modules['__main__'].test = lambda s: None\ndef add(a, b): return 9",
        "def add(a, b):\n    import gc, os\n"
        "    for x in gc.get_objects():\n"
        "        if type(x) is dict and 'setup' in x: os._exit(0)\n    return 9",
        "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 9",
        "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef add(a, b): return 1 / 0",
        "import os\nfor fd in range(3, 30):\n"
        "    try: os.write(fd, b'\\x04\\x00\\x00\\x00true' * 10)\n    except OSError: pass\n"
        "def add(a, b): return 9",
        "import os\nos.closerange(3, 60)\ndef add(a, b): return 9",
        "print('passed')\ndef add(a, b): return 9",
        "def add(a, b): return [[]] * 10**6",
        "def add(a, b): return 'x' * 10**8",
        "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
        "def add(a, b):\n    while True: pass",
        "add = 3",
        "this is no Python",
        "",
        "def ad(a, b): return a + b",
    ],
)
def test_no_cheat_passes_a_test(solution):
    """Break it: run solution and tests in one process."""
    assert run_tests(solution, TESTS, limits=QUICK).status != "passed"


@confined
def test_a_solution_passes_and_a_test_that_leaves_does_not():
    assert run_tests(ADD, TESTS).status == "passed"
    assert run_tests(ADD, "import sys\nadd(1, 2)\nsys.exit(0)").status == "failed"
    raises = "def add(a, b): raise KeyError('no')"
    caught = "try:\n    add(1, 2)\nexcept KeyError as e:\n    assert e.args == ('no',)\nelse: 1/0"
    assert run_tests(raises, caught).status == "passed"
    # The setup's helper is the tests' own, though the solution has another.
    setup = "def helper(x): return x\ndef add(a, b):\n    '''A stub.'''\n"
    tests = "assert helper(add(1, 1)) == 2"
    cheat = "def helper(x): return 2\ndef add(a, b): return 5"
    assert run_tests(ADD, tests, setup=setup, names=["add"]).status == "passed"
    assert run_tests(cheat, tests, setup=setup, names=["add"]).status == "failed"


def test_plain_data_comes_back_as_it_was():
    for x in (None, True, 3, -(10**30), 0.1, "é\ud800", (1, [2, {3}], {"a": (4,)}), b"\x00\xff"):
        assert decode(json.loads(json.dumps(encode(x)))) == x
    assert decode(encode({(1, 2): frozenset([3])})) == {(1, 2): frozenset([3])}
    assert decode(encode(1 + 2j)) == 1 + 2j
    with pytest.raises(TypeError, match="a object is no plain data"):
        encode([object()])


def test_the_names_that_tests_leave_to_a_solution():
    code = "import math as m\ndef check(f):\n    for x in range(3): assert m.floor(f(x)) == g(x)"
    assert undefined(code, {}) == {"g"}
    assert undefined(code, {"g": 1}) == set()


def test_a_machine_that_lacks_a_protection_runs_nothing(monkeypatch):
    """Break it: leave `check_protections` out of `run`, or the child's own look out of `main`."""
    monkeypatch.setattr(sandbox, "protections", lambda: dict.fromkeys(sandbox.PROTECTIONS))
    with pytest.raises(UserError, match="cannot be kept from .*opening sockets.*--unconfined"):
        run("print(1)")
    with pytest.raises(UserError, match="cannot be kept from"):
        run_tests(ADD, TESTS)
    assert run("print(1)", allow=sandbox.PROTECTIONS).output == "1\n"
    monkeypatch.setitem(sandbox.PROTECTIONS, "gravity", "falling")
    monkeypatch.setattr(sandbox, "protections", lambda: dict.fromkeys(sandbox.PROTECTIONS, "x"))
    with pytest.raises(UserError, match="not run: gravity cannot be had"):
        run("print(1)")

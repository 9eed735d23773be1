"""More of what code may try: leaving children, memory or locks behind, other tables of calls."""

import platform

import pytest

from gpt_jax.tasks.sandbox import Limits, run
from tests.tasks.test_sandbox import PATIENT, confined

LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")


@confined
@pytest.mark.parametrize(
    "code",
    [
        "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
        "import os; os.setsid()",
        "import os; os.setpgid(0, 0)",
        "import os; os.execv('/bin/true', ['true'])",
        f"{LIBC}assert libc.vfork() >= 0",
        "open('x', 'wb').truncate(10 * 2**30)",
        "f = open('x', 'wb'); f.seek(10 * 2**30); f.write(b'x'); f.flush()",
        "open('/proc/self/mem', 'r+b')",
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
        "import os; open(f'/proc/{os.getppid()}/environ')",
        "import os, pwd\nos.listdir(pwd.getpwuid(os.getuid()).pw_dir)",
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0x')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "open('/dev/tty', 'w')",
        "open('/dev/shm/x', 'w')",
        "from multiprocessing import shared_memory as s; s.SharedMemory('x', True, 4096)",
        f"{LIBC}assert libc.shmget(0, 4096, 0o1600) >= 0",
        f"{LIBC}assert libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) >= 0",
        f"{LIBC}assert libc.sigqueue(os.getppid(), 9, 0) == 0",
        f"{LIBC}assert libc.prctl(1, 0, 0, 0, 0) == 0",  # to outlive its parent
        f"{LIBC}assert libc.mount(b'none', b'.', b'tmpfs', 0, 0) == 0",
        f"{LIBC}assert libc.inotify_init() >= 0",
        "import fcntl; fcntl.ioctl(1, 0x5412, b'x')",  # words into somebody's terminal
        "import os; os.truncate('/etc/hostname', 0)",
        "import os; open('x', 'w'); os.rename('x', '../x')",
    ],
)
def test_what_is_tried_is_refused(code):
    outcome = run(f"{code}\nprint('done')", PATIENT)
    assert outcome.status == "failed" and "done" not in outcome.output, outcome
    assert "Error" in outcome.output


@confined
@x86
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("io_uring_setup", "425, 8, ctypes.create_string_buffer(200)"),
        ("bpf", "321, 0, 0, 0"),
        ("keyctl", "250, 0, -3, 1, 0, 0"),
        ("perf_event_open", "298, ctypes.create_string_buffer(200), 0, -1, -1, 0"),
        ("userfaultfd", "323, 0"),
        ("tgkill", "234, os.getppid(), os.getppid(), 0"),
        ("mq_open", "240, b'x', 0o102, 0o600, 0"),
        ("clone", "56, 17, 0, 0, 0, 0"),
        ("x32's fork", "0x40000000 + 57"),
    ],
)
def test_calls_beside_the_library_are_refused(call, arguments):
    """Break it: leave out the line of `_filter` on x86's other table."""
    outcome = run(f"{LIBC}assert libc.syscall({arguments}) < 0\nprint(ctypes.get_errno())", PATIENT)
    assert (outcome.status, outcome.output) == ("passed", "1\n"), (call, outcome)  # EPERM


@confined
@x86
def test_the_calls_of_32_bits_end_it():
    """Break it: leave out the look at the architecture."""
    code = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(b'\\xb8\\x02\\0\\0\\0\\xcd\\x80\\xc3')\n"  # fork by int 0x80
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n"
        "print('done')"
    )
    assert run(code, PATIENT)._replace(output="") == ("failed", -31, "")  # SIGSYS


@confined
def test_nothing_of_this_process_is_handed_down(monkeypatch):
    monkeypatch.setenv("API_KEY", "a secret")
    said = run("import os; print(sorted(os.environ))").output
    assert said.strip() == "['HOME', 'LC_ALL', 'TMPDIR']"


@confined
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("for i in range(10**5): open(str(i), 'w').close()", "files"),
        ("import os\nx = b'x' * 2**20\nfor _ in range(1024): os.write(1, x)", "output"),
    ],
)
def test_floods_are_cut(code, status):
    outcome = run(code, PATIENT)
    assert outcome.status == status and len(outcome.output) <= PATIENT.output


@confined
def test_files_that_were_removed_and_are_open_are_few():
    """They are not counted; there are no more than may be open, each no longer than a file."""
    code = (
        "import os, mmap\nkept = []\n"
        "try:\n"
        "    while True:\n"
        "        f = open('x', 'wb+')\n        f.write(bytes(2**10))\n        f.flush()\n"
        "        kept.append(mmap.mmap(f.fileno(), 2**10))\n        f.close()\n"
        "        os.unlink('x')\n"
        "except OSError:\n    print(len(kept))"
    )
    outcome = run(code, Limits(seconds=20, open_files=16))
    assert outcome.status == "passed" and 0 < int(outcome.output) <= 16

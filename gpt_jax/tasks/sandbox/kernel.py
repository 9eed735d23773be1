"""Takes rights away from the process that calls it, for good: limits, capabilities, files, calls.

Nothing here needs a privilege: resource limits, Landlock (which files may be opened; Linux 5.13)
and a seccomp filter (which system calls there are) only ever take away, and what is taken away
stays so for whatever the process turns into. Only the standard library is imported: `child.py` runs
this in a bare interpreter.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sys

# What each system call is needed for: a pure Python program that computes, reads the standard
# library, and writes files in one folder. Whatever is not named does not happen: no process, no
# thread, no socket, no signal to others, no change of rights, owners or times.
COMPUTING = """
    read readv pread64 write writev pwrite64 close fstat newfstatat statx lseek poll select pselect6
    ppoll getdents64 readlink readlinkat access faccessat faccessat2 dup dup2 dup3 pipe2 sendfile
    openat mmap mprotect munmap mremap madvise brk mincore
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack getitimer setitimer alarm
    futex set_robust_list rseq sched_yield sched_getaffinity
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday times getrusage
    getpid getppid gettid getuid geteuid getgid getegid getgroups getcwd uname sysinfo umask
    getrandom exit exit_group stat lstat restart_syscall
""".split()
WRITING = "ftruncate fsync fdatasync unlink unlinkat rename renameat renameat2".split()
X86_64 = """
    read=0 write=1 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19
    writev=20 access=21 select=23 sched_yield=24 mremap=25 mincore=27 madvise=28 dup=32 dup2=33
    nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 exit=60 uname=63 fcntl=72
    fsync=74 fdatasync=75 ftruncate=77 getcwd=79 rename=82 unlink=87 readlink=89 umask=95
    gettimeofday=96 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108
    getppid=110 getgroups=115 sigaltstack=131 gettid=186 futex=202 sched_getaffinity=204
    getdents64=217 restart_syscall=219 clock_gettime=228 clock_getres=229 clock_nanosleep=230
    exit_group=231 openat=257 newfstatat=262 unlinkat=263 renameat=264 readlinkat=267 faccessat=269
    pselect6=270 ppoll=271 set_robust_list=273 dup3=292 pipe2=293 prlimit64=302 renameat2=316
    getrandom=318 statx=332 rseq=334 clone3=435 faccessat2=439 capset=126
"""
AARCH64 = """
    getcwd=17 dup=23 dup3=24 fcntl=25 ioctl=29 unlinkat=35 renameat=38 ftruncate=46 faccessat=48
    openat=56 close=57 pipe2=59 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66
    pread64=67 pwrite64=68 sendfile=71 pselect6=72 ppoll=73 readlinkat=78 newfstatat=79 fstat=80
    fsync=82 fdatasync=83 capset=91 exit=93 exit_group=94 futex=98 set_robust_list=99 nanosleep=101
    getitimer=102 setitimer=103 clock_gettime=113 clock_getres=114 clock_nanosleep=115
    sched_getaffinity=123 sched_yield=124 restart_syscall=128 sigaltstack=132 rt_sigaction=134
    rt_sigprocmask=135 rt_sigreturn=139 times=153 getgroups=158 uname=160 getrusage=165 umask=166
    gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178
    sysinfo=179 brk=214 munmap=215 mremap=216 mmap=222 mprotect=226 mincore=232 madvise=233
    prlimit64=261 renameat2=276 getrandom=278 statx=291 rseq=293 clone3=435 faccessat2=439
"""
MACHINES = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}  # AUDIT_ARCH_*
FCNTL = (0, 1, 2, 3, 4, 1030)  # dup, descriptor and status flags; no F_SETOWN, which sends signals
IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # is it a terminal, its size, FIONREAD, cloexec
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0)

# Landlock's numbers, the same on every machine.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE = 1, 2, 4, 8, 32
MAKE_REG, TRUNCATE, IOCTL_DEV = 256, 1 << 14, 1 << 15
HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by ABI

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06


def confine(folder: str, limits: dict) -> dict:
    """Does all that this machine offers.

    Args:
      folder: where files may be written; no folders, links or devices.
      limits: `memory`, `cpu_seconds`, `file_bytes`, `open_files`.

    Returns:
      {protection: by what}, of those that are in force; see `sandbox.PROTECTIONS`.
    """
    active = _limit(limits)
    if not sys.platform.startswith("linux"):
        return active
    _drop_capabilities()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return active
    abi = _landlock(libc, folder)
    if _seccomp(libc, writing=abi is not None):
        active |= dict.fromkeys(("network", "processes", "signals"), "seccomp")
        active["writes"] = f"Landlock {abi}" if abi else "seccomp: no file is opened for writing"
        if abi:
            active["reads"] = f"Landlock {abi}"
    return active


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the one that started it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _limit(limits: dict) -> dict:
    import resource

    wanted = {
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,  # for root it counts for nothing: seccomp does
    }
    done = set()
    for name, value in wanted.items():
        number = getattr(resource, name, None)
        if number is not None:
            with contextlib.suppress(ValueError, OSError):  # what is not done is not reported
                resource.setrlimit(number, (value, value))
                done.add(name)
    # macOS has a limit of that name, and does not keep it.
    memory = "RLIMIT_AS" in done and sys.platform.startswith("linux")
    active = {"memory": "RLIMIT_AS"} if memory else {}
    return active | ({"cpu": "RLIMIT_CPU"} if "RLIMIT_CPU" in done else {})


def _numbers() -> tuple[int, dict[str, int]] | None:
    """The audit number of this machine and its system calls; None where they are not known."""
    if platform.machine() not in MACHINES or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    arch, table = MACHINES[platform.machine()]
    return arch, {name: int(number) for name, number in (x.split("=") for x in table.split())}


def _drop_capabilities() -> None:
    """A root user without its capabilities is a user like others."""
    known = _numbers()
    if known:
        header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
        ctypes.CDLL(None).syscall(known[1]["capset"], header, none)


def _landlock(libc: ctypes.CDLL, folder: str) -> int | None:
    """Lets the standard library be read and `folder` be written; the ABI, or None without it."""
    abi = libc.syscall(CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return None
    handled = HANDLED[max(number for number in HANDLED if number <= abi)]
    attributes = struct.pack("QQQ", handled, 0, 0)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return None

    def allow(path: str, rights: int) -> bool:
        try:
            at = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        except OSError:
            return True  # what is not there needs no rule
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
        rule = struct.pack("=Qi", rights & handled, at)
        failed = libc.syscall(ADD_RULE, rules, 1, rule, 0)
        os.close(at)
        return not failed

    reading, writing = READ_FILE | READ_DIR, WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
    done = [allow(path, reading) for path in readable()]
    done += [allow(folder, reading | writing), allow(os.devnull, READ_FILE | WRITE_FILE)]
    if not all(done) or libc.syscall(RESTRICT_SELF, rules, 0):
        return None
    os.close(rules)
    return abi


def readable() -> list[str]:
    """Files that Python itself reads: its library, what that is linked with, time zones."""
    library = os.path.dirname(os.__file__)
    system = "/lib /lib64 /usr/lib /usr/lib64 /etc/ld.so.cache /usr/share/zoneinfo /dev/urandom"
    linked = [os.path.join(sys.base_prefix, "lib"), *system.split(), "/etc/localtime"]
    return [library, *linked]


def _seccomp(libc: ctypes.CDLL, writing: bool) -> bool:
    """Leaves this process the system calls above; whether that could be done."""
    known = _numbers()
    if known is None:
        return False
    program = _filter(*known, writing)
    lines = b"".join(struct.pack("HBBI", *line) for line in program)
    kept = ctypes.create_string_buffer(lines)
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(kept))
    return libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(header), 0, 0) == 0


def _filter(arch: int, calls: dict[str, int], writing: bool) -> list[tuple]:
    """The program: (operation, lines skipped if so, if not, number) of every line."""
    refuse = ERRNO | errno.EPERM
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    lines += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, refuse)]  # x86's other table of calls

    def only(name: str, argument: int, values: tuple[int, ...]) -> list[tuple]:
        """A call that is allowed where the low half of an argument is one of some values."""
        tests = [(LOAD, 0, 0, 16 + 8 * argument)]
        for value in values:
            tests += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
        tests += [(RETURN, 0, 0, refuse)]
        return [(EQUAL, 0, len(tests), calls[name]), *tests]

    lines += only("fcntl", 1, FCNTL) + only("ioctl", 1, IOCTL)
    # A limit may be read, not set: root could raise it. The new one is the third argument.
    tests = [(LOAD, 0, 0, 32), (EQUAL, 0, 3, 0), (LOAD, 0, 0, 36), (EQUAL, 0, 1, 0)]
    tests += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, refuse)]
    lines += [(EQUAL, 0, len(tests), calls["prlimit64"]), *tests]
    # glibc takes clone where there is no clone3, and clone is refused as all that is not named.
    lines += [(EQUAL, 0, 1, calls["clone3"]), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    if not writing:
        tests = [(LOAD, 0, 0, 32), (ANY_BIT, 0, 1, WRITE_FLAGS), (RETURN, 0, 0, refuse)]
        tests += [(RETURN, 0, 0, ALLOW)]
        lines += [(EQUAL, 0, len(tests), calls["openat"]), *tests]
    for name in COMPUTING + (WRITING if writing else []):
        if name in calls:
            lines += [(EQUAL, 0, 1, calls[name]), (RETURN, 0, 0, ALLOW)]
    return [*lines, (RETURN, 0, 0, refuse)]

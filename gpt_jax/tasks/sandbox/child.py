"""What runs inside of a sandbox: a script, a solution that answers calls, or the tests of one.

    python -I -S child.py < settings.json

A solution and its tests are two processes. The tests see the solution as functions that take and
give plain data, so that nothing it does (leaving early, changing `assert`'s names, looking for the
expected value in memory, an object that equals everything) passes a test.
"""

import ast
import builtins
import json
import os
import sys
from collections.abc import Callable

FOLDER = os.path.dirname(os.path.abspath(__file__))
PASSED, FAILED, REFUSED = 0, 1, 97
LONGEST = 1 << 20  # bytes of a call or a reply
LEFT = "the solution ended before its tests did"


def main() -> None:
    settings = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.insert(0, FOLDER)
    import kernel

    sys.path.remove(FOLDER)
    kernel.die_with_parent(settings["parent"])
    active = kernel.confine(settings["folder"], settings["limits"])
    if settings["role"] == "report":
        print(json.dumps(active))
        return
    if missing := set(settings["required"]) - set(active):
        print(f"{', '.join(sorted(missing))} cannot be had", flush=True)
        os._exit(REFUSED)
    roles: dict[str, Callable[[dict], None]] = {"script": script, "solve": solve, "test": test}
    roles[settings["role"]](settings)


def script(settings: dict) -> None:
    exec(compile(settings["code"], "<code>", "exec"), {"__name__": "__main__"})


def solve(settings: dict) -> None:
    """Runs the solution, then answers calls of its functions until nobody asks any more."""
    asked, answers = os.fdopen(settings["reads"], "rb"), os.fdopen(settings["writes"], "wb")
    names = {"__name__": "solution"}
    exec(compile(settings["code"], "<solution>", "exec"), names)
    while (call := receive(asked)) is not None:
        name, args, kwargs = call
        try:
            reply = {"value": encode(names[name](*args, **kwargs))}
        except Exception as error:
            reply = {"error": [type(error).__name__, said(error)]}
        send(answers, reply)


def test(settings: dict) -> None:
    """Runs the tests, with the solution's names as calls to the other process."""
    answers, asked = os.fdopen(settings["reads"], "rb"), os.fdopen(settings["writes"], "wb")

    def proxy(name: str) -> Callable:
        def call(*args, **kwargs):
            try:
                send(asked, encode((name, args, kwargs)))
                reply = receive(answers, decoded=False)
            except BrokenPipeError:
                reply = None
            if reply is None:
                raise RuntimeError(LEFT)
            if "error" in reply:
                raise as_error(*reply["error"])
            return decode(reply["value"])

        return call

    names = {"__name__": "tests"}
    exec(compile(settings["setup"], "<setup>", "exec"), names)
    wanted = set(settings["names"]) | undefined(settings["code"], names)
    names |= {name: proxy(name) for name in wanted}
    try:
        exec(compile(settings["code"], "<tests>", "exec"), names)
    except BaseException as error:  # SystemExit, too: a test that leaves has not passed
        print(f"{type(error).__name__}: {error}"[:500], flush=True)
        os._exit(FAILED)
    os._exit(PASSED)


def said(error: Exception) -> list:
    """The arguments of an exception, as far as they are plain data."""
    try:
        return [encode(one) for one in error.args]
    except TypeError:
        return [str(error)[:500]]


def as_error(kind: str, args: list) -> Exception:
    """An exception of the solution's, if Python has its kind; else a RuntimeError."""
    known = getattr(builtins, str(kind), None)
    try:
        error = known(*map(decode, args))
    except Exception:
        error = None
    return error if isinstance(error, Exception) else RuntimeError(f"{kind}: {args}"[:500])


def undefined(code: str, names: dict) -> set[str]:
    """The names that a code reads and neither it nor `names` nor Python defines."""
    reads, defines = set(), set(names) | set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else defines).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defines.add(node.name)
        elif isinstance(node, ast.arg):
            defines.add(node.arg)
        elif isinstance(node, ast.alias):
            defines.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defines.add(node.name)
    return reads - defines


def send(stream, message) -> None:
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(4, "little") + data)
    stream.flush()


def receive(stream, decoded: bool = True):
    """A message; None at the end of the stream."""
    length = stream.read(4)
    if len(length) < 4:
        return None
    if (size := int.from_bytes(length, "little")) > LONGEST:
        raise RuntimeError(f"a reply of more than {LONGEST} bytes")
    data = stream.read(size)
    if len(data) < size:
        return None
    message = json.loads(data)
    return decode(message) if decoded else message


def encode(x):
    """Plain data as JSON that tells lists from tuples; a TypeError for anything else."""
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, complex):
        return {"complex": [x.real, x.imag]}
    if isinstance(x, bytes | bytearray):
        return {"bytes": bytes(x).hex()}
    if isinstance(x, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in x.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(x, kind):
            return {kind.__name__: [encode(item) for item in x]}
    raise TypeError(f"a {type(x).__name__} is no plain data: it cannot be given to a test")


def decode(x):
    """What `encode` was given."""
    if not isinstance(x, dict):
        return x
    [(kind, items)] = x.items()
    if kind == "complex":
        return complex(*items)
    if kind == "bytes":
        return bytes.fromhex(items)
    if kind == "dict":
        return {decode(k): decode(v) for k, v in items}
    kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](decode(item) for item in items)


if __name__ == "__main__":
    main()

"""What a compiled program costs one device, read from its HLO text.

The compiler's own cost analysis counts the body of a loop once and gives no figure for the
interconnect. This one multiplies every loop (above all the scan over layers) by its trip count,
which is known from the loop's condition, and adds up three things:

* FLOPs: two for every multiply-add of a matrix product. TPUs get theirs as convolutions.
* HBM bytes: what every operation outside a fusion reads and writes. A slice of a stacked array
  costs the slice; whatever lives on the chip (layout `S(1)`: VMEM) or on the host costs nothing.
* Collective bytes, by kind: what a device sends in the bandwidth-optimal algorithm, so that of n
  devices each sends (n-1)/n of a gathered or scattered array, and twice that of a reduced one.

A custom kernel is a black box to HLO: its FLOPs and bytes are those of its cost estimate. One
without counts as no FLOPs, and as reading its operands whole.
"""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

# Operations that move nothing themselves; the computations they call are counted instead.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "iota",
}  # fmt: skip

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%([\w.\-]+)")
ESTIMATE = re.compile(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"')
OFF_HBM = re.compile(r"S\([1-9]\d*\)")  # an HBM array has no memory space, or S(0)


class Cost(NamedTuple):
    """Of one execution, on one device."""

    flops: float
    hbm_bytes: float
    collective_bytes: dict[str, float]


class Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> float:
        bits = 8 if self.dtype == "pred" else int(re.search(r"\d+", self.dtype).group())
        return math.prod(self.shape) * bits / 8


class Op(NamedTuple):
    """One instruction: `%name = arrays opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> float:
        return sum(array.bytes for array in self.arrays if array.in_hbm)


Computation = dict[str, Op]


def cost(text: str) -> Cost:
    """Of a compiled program, `jax.stages.Compiled.as_text()`."""
    entry, computations = parse(text)
    flops, hbm_bytes, collectives = _Counter(computations).total(entry)
    by_kind = dict.fromkeys(COLLECTIVES, 0.0)
    for kind, sent in collectives.values():
        by_kind[kind] += sent
    return Cost(flops, hbm_bytes, {kind: sent for kind, sent in by_kind.items() if sent})


def parse(text: str) -> tuple[str, dict[str, Computation]]:
    """The name of the entry computation, and every computation by its name."""
    entry, computations, current = "", {}, {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif instruction := INSTRUCTION.match(line):
            op = _parse_instruction(instruction)
            current[op.name] = op
    return entry, computations


def _parse_instruction(match: re.Match) -> Op:
    root, name, rest = match.groups()
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    arrays = tuple(
        Array(
            dtype,
            tuple(int(size) for size in sizes.split(",") if size),
            not OFF_HBM.search(layout or ""),
        )
        for dtype, sizes, layout in ARRAY.findall(rest[:end])
    )
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    opcode, inside = rest[end:opening].strip(), rest[opening + 1 : closing]
    operands = (inside,) if opcode == "constant" else tuple(re.findall(r"%([\w.\-]+)", inside))
    if opcode == "parameter":
        operands = (inside,)
    return Op(name, arrays, opcode, operands, rest[closing + 1 :], bool(root))


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` is closed."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")


class _Counter:
    """Adds up the costs of computations, each once."""

    def __init__(self, computations: dict[str, Computation]):
        self.computations = computations
        self.total = functools.cache(self._total)
        self.read = functools.cache(self._read)

    def _total(self, name: str) -> tuple[float, float, dict]:
        """(FLOPs, HBM bytes, {key: (kind, bytes sent)}) of a computation.

        Collectives are keyed by their channel: TPUs run one collective in several fusions, which
        all name it.
        """
        computation = self.computations[name]
        flops, hbm_bytes, collectives = 0.0, 0.0, {}
        for op in computation.values():
            hbm_bytes += self.traffic(op, computation)
            kind = op.opcode.removesuffix("-start")
            if op.opcode == "dot":
                flops += dot_flops(op, computation)
            elif op.opcode == "convolution":
                flops += convolution_flops(op, computation)
            elif op.opcode == "custom-call" and (estimate := ESTIMATE.search(op.attributes)):
                flops += float(estimate[1])
            elif kind in COLLECTIVES:
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                channel = re.search(r"channel_id=(\d+)", op.attributes)
                collectives[channel[1] if channel else op.name] = (
                    kind,
                    sent_bytes(kind, op, computation),
                )
            elif op.opcode == "while":
                trips = self.trip_count(op)
                for called in CALLED.findall(op.attributes):
                    more = self.total(called)
                    flops += trips * more[0]
                    hbm_bytes += trips * more[1]
                    for key, (kind, sent) in more[2].items():
                        collectives[f"{op.name}/{key}"] = (kind, trips * sent)
            elif op.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", op.attributes)
                names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else re.findall(
                    r"(?:true|false)_computation=%([\w.\-]+)", op.attributes
                )  # fmt: skip
                more = max((self.total(branch) for branch in names), key=lambda cost: cost[:2])
                flops, hbm_bytes = flops + more[0], hbm_bytes + more[1]
                collectives |= {f"{op.name}/{key}": value for key, value in more[2].items()}
            elif op.opcode in ("fusion", "call", "async-start"):
                for called in CALLED.findall(op.attributes):
                    more = self.total(called)
                    flops += more[0]
                    # Inside a fusion nothing is written out: `traffic` has counted its boundary.
                    hbm_bytes += more[1] if op.opcode == "call" else 0.0
                    collectives |= more[2]
        return flops, hbm_bytes, collectives

    def trip_count(self, loop: Op) -> int:
        """From the compiler's note, or from the constant that the condition compares with.

        Counters start at 0, as `lax.scan` makes them, and step by what the body adds: 1, or 2
        where the compiler has unrolled a ring of partial products. A condition that may end the
        loop earlier (every row has stopped) counts as if it never did.
        """
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.attributes)[1]
        bounds = [
            int(op.operands[0])
            for op in self._all_ops(condition)
            if op.opcode == "constant" and op.arrays[0].dtype in ("s32", "u32", "s64")
            if not op.arrays[0].shape
        ]
        return -(-max(bounds, default=1) // self._step(loop, condition))

    def _step(self, loop: Op, condition: str) -> int:
        """What the body adds to the counter that the condition reads."""
        body = self.computations[re.search(r"body=%([\w.\-]+)", loop.attributes)[1]]
        root = next(op for op in body.values() if op.root)
        for op in self.computations[condition].values():
            index = re.search(r"index=(\d+)", op.attributes)
            counter = op.opcode == "get-tuple-element" and not op.arrays[0].shape and index
            if counter and root.opcode == "tuple" and int(index[1]) < len(root.operands):
                return max(1, self._added(body, root.operands[int(index[1])]))
        return 1

    def _added(self, computation: Computation, name: str) -> int:
        """The constants that are added up to a value, through copies and fusions."""
        op = computation[name]
        if op.opcode == "constant":
            return int(op.operands[0])
        if op.opcode in ("add", "copy", "bitcast"):
            return sum(self._added(computation, operand) for operand in op.operands)
        if op.opcode == "fusion":
            called = self.computations[CALLED.search(op.attributes)[1]]
            inside = self._added(called, next(op.name for op in called.values() if op.root))
            return inside + sum(self._added(computation, operand) for operand in op.operands)
        return 0

    def _all_ops(self, name: str) -> list[Op]:
        ops = list(self.computations[name].values())
        for op in list(ops):
            if op.opcode in ("fusion", "call"):
                ops += self._all_ops(CALLED.search(op.attributes)[1])
        return ops

    def traffic(self, op: Op, computation: Computation) -> float:
        """HBM bytes that one operation outside a fusion reads and writes."""
        if op.opcode in FREE or op.opcode.endswith(("-done", "-update")):
            return 0.0
        if op.opcode in ("fusion", "async-start"):
            called = CALLED.search(op.attributes)[1]
            read = sum(
                min(self.read(called, place), _operand(computation, operand).hbm_bytes)
                for place, operand in enumerate(op.operands)
            )
            return read + min(self.written(called), op.hbm_bytes)
        if op.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * op.hbm_bytes
        if op.opcode == "dynamic-update-slice":
            return 2 * _operand(computation, op.operands[1]).hbm_bytes
        if op.opcode == "custom-call" and "AllocateBuffer" in op.attributes:
            return 0.0
        if op.opcode == "custom-call" and (estimate := ESTIMATE.search(op.attributes)):
            return float(estimate[2])
        read = sum(_operand(computation, operand).hbm_bytes for operand in op.operands)
        if op.opcode.endswith("-start"):  # its result holds the operands again
            return 2 * read if op.opcode != "copy-start" else _copied(op)
        return read + op.hbm_bytes

    def _read(self, name: str, place: int) -> float:
        """Bytes that a fused computation reads of its operand number `place`."""
        computation = self.computations[name]
        parameter = next(
            op
            for op in computation.values()
            if op.opcode == "parameter" and op.operands[0] == str(place)
        )
        return self._read_value(computation, parameter)

    def _read_value(self, computation: Computation, value: Op) -> float:
        total = 0.0
        for user in computation.values():
            if value.name not in user.operands or user.opcode in ("parameter", "constant"):
                continue
            place = user.operands.index(value.name)
            if user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
                total += user.bytes
            elif user.opcode == "dynamic-update-slice" and place == 0:
                total += 0.0  # updated in place
            elif user.opcode == "bitcast":
                total += self._read_value(computation, user)
            elif user.opcode == "fusion":
                total += self.read(CALLED.search(user.attributes)[1], place)
            else:
                return value.bytes
        return min(total, value.bytes)

    def written(self, name: str) -> float:
        """Bytes that a fused computation writes."""
        computation = self.computations[name]
        return self._written_value(computation, next(op for op in computation.values() if op.root))

    def _written_value(self, computation: Computation, op: Op) -> float:
        if op.opcode == "tuple":
            return sum(self._written_value(computation, computation[o]) for o in op.operands)
        if op.opcode == "bitcast" and op.operands[0] in computation:
            return self._written_value(computation, computation[op.operands[0]])
        if op.opcode == "dynamic-update-slice":
            return _operand(computation, op.operands[1]).bytes
        if op.opcode == "fusion":
            return self.written(CALLED.search(op.attributes)[1])
        return op.bytes


def _operand(computation: Computation, name: str) -> Op:
    return computation[name]


def _copied(op: Op) -> float:
    """A copy to or from HBM; the result is (destination, source, context)."""
    return sum(array.bytes for array in op.arrays[:2] if array.in_hbm)


def dot_flops(op: Op, computation: Computation) -> float:
    left = _operand(computation, op.operands[0]).arrays[0].shape
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)[1]
    sizes = [left[int(axis)] for axis in contracted.split(",") if axis]
    return 2.0 * math.prod(op.arrays[0].shape) * math.prod(sizes)


def convolution_flops(op: Op, computation: Computation) -> float:
    """A matrix product is a convolution whose window has one valid place per output.

    Batched products come as windows over padded or dilated axes, in which most places fall on
    nothing; only those that fall on an input are counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    left_labels, right_labels, out_labels = labels.groups()
    left, right = (_operand(computation, name).arrays[0].shape for name in op.operands[:2])
    out = op.arrays[0].shape
    total = 2.0 * out[out_labels.index("b")] * out[out_labels.index("f")]
    total *= right[right_labels.index("i")]
    window = _window(op.attributes)
    for axis in sorted(set(out_labels) - set("bf")):
        spec = {key: values[int(axis)] for key, values in window.items()}
        total *= _valid_places(
            left[left_labels.index(axis)],
            right[right_labels.index(axis)],
            out[out_labels.index(axis)],
            stride=int(spec.get("stride", 1)),
            low=int(spec.get("pad", "0_0").split("_")[0]),
            left_dilation=int(spec.get("lhs_dilate", 1)),
            right_dilation=int(spec.get("rhs_dilate", 1)),
        )
    return total


def _window(attributes: str) -> dict[str, list[str]]:
    """`window={size=8x4 pad=0_0x3_3}` -> {"size": ["8", "4"], "pad": ["0_0", "3_3"]}."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    parts = match[1].split() if match else []
    return {key: values.split("x") for key, values in (part.split("=") for part in parts)}


def _valid_places(left, right, out, *, stride, low, left_dilation, right_dilation) -> int:
    """Pairs of an output and a window place that fall on an input, along one axis."""
    extent = (left - 1) * left_dilation + 1
    return sum(
        0 <= place < extent and place % left_dilation == 0
        for o in range(out)
        for place in (o * stride + r * right_dilation - low for r in range(right))
    )


def sent_bytes(kind: str, op: Op, computation: Computation) -> float:
    """What one device sends."""
    size = sum(_operand(computation, operand).bytes for operand in op.operands)
    n = group_size(op.attributes)
    return {
        "all-gather": size * (n - 1),
        "all-reduce": 2 * size * (n - 1) / n,
        "reduce-scatter": size * (n - 1) / n,
        "all-to-all": size * (n - 1) / n,
        "collective-permute": size,
    }[kind]


def group_size(attributes: str) -> int:
    """How many devices take part in a collective together."""
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(tiled[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed[1].split(","))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{('[^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return 1

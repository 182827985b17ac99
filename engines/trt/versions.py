"""What each generation of TensorRT reads and offers; every row says how that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engines.errors import UserError
from engines.trt.operators import ANY, ATTENTION, FOUR_BITS, IN_PLACE, NUMBERS, TYPES

Dtypes = Mapping[str, frozenset[str]]
WRITTEN_OUT = ("explicit_attention", "explicit_norm", "explicit_rotary")


@dataclass(frozen=True)
class Version:
    """One generation.

    Attributes:
        name: as it is written here and in messages.
        since: the first version number that it stands for.
        where: who ships it.
        opset: the highest that its ONNX parser reads; None if it reads whatever opset a graph says.
        types: operators it knows, with the types of their first operand, as ONNX names them.
        constants: inputs that must be constants: operator -> number of the input.
        scans: whether a Loop may collect rows over a number of trips that is no constant.
        cumsums: whether CumSums of different axes or directions may stand in one graph.
        typed: what tells trtexec that types are those of the graph; nothing where that is always so.
        plugin: how a plugin takes the place of a function of its name: always, with a parser's flag, or only if the
            file has no such function.
        hardware: which GPUs a plan may be made for beside the one it is built on, as trtexec spells it.
        source: how all this is known.
    """

    name: str
    since: tuple[int, int]
    where: str
    opset: int | None
    types: Dtypes
    plugin: Literal["stripped", "preferred", "flag"]
    hardware: tuple[str, ...]
    source: str
    typed: str = "--stronglyTyped"
    constants: Mapping[str, int] = field(default_factory=dict)
    scans: bool = False
    cumsums: bool = True

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return f"TensorRT-RTX {self.name[4:]}" if self.name.startswith("rtx") else f"TensorRT {self.name}"


_REDUCED = {f"Reduce{kind}": 1 for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}
_AXES = {**_REDUCED, "Squeeze": 1, "Unsqueeze": 1}
_PARSED = {**_AXES, "CumSum": 1, "OneHot": 1}
_BOTH = ("ampere+", "sameComputeCapability")
_COUNTED: Dtypes = {**TYPES, **FOUR_BITS, "CumSum": NUMBERS}
_WHOLE: Dtypes = {**_COUNTED, **ATTENTION, **IN_PLACE, "Pow": NUMBERS}

VERSIONS = (
    Version(
        name="10.3",
        since=(10, 0),
        where="JetPack 6.1 and 6.2 (Orin)",
        opset=20,
        types=TYPES,
        plugin="stripped",
        hardware=("ampere+",),
        constants=_PARSED,
        source="operator tables of 10.0 (opset 9 to 20) and 10.6 (types), changelog of the parser; never run",
    ),
    Version(
        name="10.13",
        since=(10, 8),
        where="JetPack 7.0 and 7.1 (Thor)",
        opset=22,
        types=_COUNTED,
        plugin="preferred",
        hardware=_BOTH,
        constants=_PARSED,
        cumsums=False,
        source="operator table of 10.8, release notes of 10.13 and 10.14, onnx-tensorrt issue 1034; never run",
    ),
    Version(
        name="10.16",
        since=(10, 15),
        where="JetPack 7.2 (Orin, Thor)",
        opset=24,
        types=_WHOLE,
        plugin="flag",
        hardware=_BOTH,
        constants=_PARSED,
        cumsums=False,
        source="operator table and importers of 10.15, onnx-tensorrt issue 1034; never run",
    ),
    Version(
        name="11",
        since=(11, 0),
        where="data centre and desktop, JetPack 7.2.2 and later",
        opset=24,
        types=_WHOLE,
        plugin="flag",
        hardware=_BOTH,
        typed="",
        constants=_PARSED,
        source="operator table of 10.15, migration guide and release notes of 11.0 to 11.5; never run",
    ),
)
RTX = Version(
    name="rtx-1.7",
    since=(1, 0),
    where="RTX GPUs",
    opset=None,
    types={**_WHOLE, "Equal": ANY, "Add": NUMBERS | {"INT8", "DOUBLE"}, "Cast": ANY | {"UINT8", "DOUBLE"}},
    plugin="flag",
    hardware=(),
    typed="",
    constants=_AXES,
    scans=True,
    source="measured with TensorRT-RTX 1.7.1: its parser and builder, one toy graph a rule",
)


def named(name: str) -> Version:
    """A row of the table.

    Raises:
        UserError: There is none of that name.
    """
    known = {version.name: version for version in (*VERSIONS, RTX)}
    if name not in known:
        raise UserError(f"unknown TensorRT '{name}': known are {', '.join(known)}")
    return known[name]


def of(number: str, *, rtx: bool = False) -> Version:
    """The row for a version number such as "10.13.3.9"; the oldest for still older ones.

    10.9 to 10.14 count as 10.13: what 10.14 has more, a graph for 10.13 does without.
    """
    if rtx:
        return RTX
    major, minor = (int(part) for part in [*number.split("."), "0"][:2])
    return max((row for row in VERSIONS if row.since <= (major, minor)), key=lambda row: row.since, default=VERSIONS[0])


def form(version: Version, dtype: str, *, loops: bool = False) -> tuple[str, ...]:
    """Passes (`graph_passes.legalise.LEGAL`) that bring a graph of opset 23 into the form which that version reads.

    Attention in fp32 has a fused kernel nowhere, and beside a Loop the compiler fails over it in many graphs
    (TensorRT-RTX 1.7.1) unless it is written out; then it is fused there, too.
    """
    if "Attention" not in version.types:
        counted = () if "INT64" in version.types["CumSum"] else ("float_cumsum",)
        return (*WRITTEN_OUT, *counted, f"opset_{version.opset}")
    return ("explicit_attention",) if dtype == "fp32" or loops else ()

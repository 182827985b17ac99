"""The table of what TensorRT makes of every method: fusion.json, its rows and how an export is held against them.

`python -m tests.exporter.matrix.fusion [PAIR...]` writes the rows anew, all or those of some pairs such as fastv-Llava:
each is exported without parity, and built for TensorRT-RTX. Look at the difference before you keep it.

A row says of each part, and of each range of shapes (prompts, then single tokens): attention layers of the graph, how
many of them are one kernel, and how often the host waits for a shape: these must stay equal. Then layers of the plan,
and of these the ones in fp32 and those that only move data: with the builder that the file names, they may be fewer.
"""

import json
import sys
import tempfile
from pathlib import Path

FILE = Path(__file__).with_name("fusion.json")
EXACT = ("attention", "fused", "host_copies")
COLUMNS = (*EXACT, "layers", "fp32", "copies")


def row(entry):
    """What bundle.json says of an engine, in short: {part: [[a number for each of COLUMNS] for each profile]}."""
    reports = {part: told for part, told in entry["fusion"].items() if part != "embed"}  # a gather
    return {part: [_figures(told, profile) for profile in told["profiles"]] for part, told in reports.items()}


def _figures(told, profile):
    figures = {
        "attention": told["attention"],
        "fused": sum(profile["fused"].values()),
        "host_copies": len(profile["host_copies"]),
        "layers": profile["layers"],
        "fp32": len(profile["fp32"]),
        "copies": profile["copies"],
    }
    return [figures[name] for name in COLUMNS]


def table():
    """Every row that there is, by pair."""
    return json.loads(FILE.read_text())["rows"]


def worse(found, listed, names=COLUMNS):
    """Where a row is worse than the one in the table, in words."""
    if found.keys() != listed.keys():
        return [f"parts {sorted(found)}, in the table {sorted(listed)}"]
    return [
        f"{part}, range {number}: {name} {new}, in the table {old}"
        for part, profiles in found.items()
        for number, (mine, theirs) in enumerate(zip(profiles, listed[part], strict=True))
        for name, new, old in zip(COLUMNS, mine, theirs, strict=True)
        if name in names and (new != old if name in EXACT else new > old)
    ]


def check(pair, entry):
    """No attention falls apart and nothing waits for the host, as the table says; without a row: not at all."""
    found, told = row(entry), json.loads(FILE.read_text())
    ideal = {part: [[p[0], p[0], 0, *p[3:]] for p in profiles] for part, profiles in found.items()}
    names = COLUMNS if entry["builder"] == told["builder"] else EXACT
    assert worse(found, told["rows"].get(str(pair), ideal), names) == []


def write(rows, builder):
    """The file, one row a line."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    head = json.dumps({"builder": builder, "columns": COLUMNS})[:-1]
    FILE.write_text(f'{head},\n"rows": {{\n{lines}\n}}}}\n')


def main(wanted):
    from tests.exporter.matrix.test_pairs import LABEL, covering, play

    names = {str(pair) for pair in covering()}
    rows = {name: kept for name, kept in table().items() if name in names} if wanted else {}
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch, "models")
        models.mkdir()
        for pair in covering():
            if not wanted or str(pair) in wanted:
                outcome = play(pair, models, Path(scratch), parity="none")
                entry = outcome.contract["engines"][LABEL]
                rows[str(pair)] = row(entry)
                sys.stdout.write(f"{pair} {rows[str(pair)]}\n")
                write(rows, entry["builder"])


if __name__ == "__main__":
    main(sys.argv[1:])

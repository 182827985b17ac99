"""What became of a matrix, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engines.tables import Table
from exporter.fleet.jobs import End, Job


def table(ends: Mapping[Job, End]) -> Table:
    """Bundle x target: how it ended, seconds, MB, and where, if there is more than one place."""
    far = any(end.where for end in ends.values())
    columns = ("bundle", "target", "", "seconds", "MB", *(["where"] if far else []))
    rows = [(job.bundle, job.what, *_cells(end), *([end.where or "-"] if far else [])) for job, end in ends.items()]
    return Table("Bundles and engines", columns, tuple(rows), _sum(ends))


def reasons(ends: Mapping[Job, End]) -> Iterator[str]:
    """A line for each job that left nothing."""
    return (f"{job}: {end.outcome}: {end.why}" for job, end in ends.items() if end.why)


def _cells(end: End) -> tuple[str, str, str]:
    size = f"{end.bytes / 1e6:.1f}" if end.bytes else "-"
    return end.outcome, f"{end.seconds:.1f}" if end.seconds else "-", size


def _sum(ends: Mapping[Job, End]) -> str:
    counts = {
        kind: sum(end.outcome == kind for end in ends.values()) for kind in ("built", "reused", "refused", "failed")
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)

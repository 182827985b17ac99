"""Jobs for a fleet that cost nothing, and a folder from which child processes can import them."""

from exporter.fleet import drive
from exporter.fleet.matrix import Goal, Matrix, Planned
from exporter.recipe import Recipe

JOBS = """
import os, signal, time
from pathlib import Path

def export(recipe, out):
    if recipe["method"] in ("refused", "failed"):
        return {"outcome": recipe["method"], "why": "because"}
    return {"outcome": "built", "bytes": 2_000_000}

def build(bundle, target, told, store):
    with open(bundle + ".times", "a") as file:
        file.write(f"{time.time()} begin\\n")
    if target == "abort":
        os.abort()
    if target == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    if target == "long":
        time.sleep(60)
    time.sleep(0.3)
    with open(bundle + ".times", "a") as file:
        file.write(f"{time.time()} end\\n")
    return {"outcome": "reused" if store else "built", "bytes": 1_000_000}
"""


def install(monkeypatch, folder):
    """Let drives use these jobs; children find them from now on."""
    (folder / "fleet_jobs.py").write_text(JOBS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(drive, "EXPORT", "fleet_jobs:export")
    monkeypatch.setattr(drive, "BUILD", "fleet_jobs:build")


def matrix(**bundles):
    """By bundle: its targets, kinds behind an @; a bundle's name is its method's."""
    planned = []
    for name, targets in bundles.items():
        goals = [Goal(target, kind or None) for target, _, kind in (each.partition("@") for each in targets.split())]
        planned.append(Planned(name, Recipe("demo", name, "1", targets=("ort-cpu",)), tuple(goals)))
    kinds = {goal.kind for each in planned for goal in each.goals if goal.kind}
    return Matrix(tuple(planned), {kind: (kind, 1.0) for kind in kinds})


def ends(found):
    """By bundle and column: outcome."""
    return {(job.bundle, job.what): end.outcome for job, end in found.items()}

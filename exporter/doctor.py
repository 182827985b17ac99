"""What is installed, what is missing, and what to do about it."""

import os
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement

from engines.registry import engine, names
from exporter import cache
from exporter.disk import existing
from exporter.extras import DISTRIBUTION, INSTALL, requirements

PACKAGES = ("exporter", "graph_passes", "engines", "plugins")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
RUNTIME = f"pip install '{DISTRIBUTION}[runtime]'"


@dataclass(frozen=True)
class Check:
    """One finding: ok or not, what was seen, the command or action that helps (empty if ok), whether it is an extra."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    extra: bool = False


def diagnose() -> list[Check]:
    """All checks: what can be done, targets, ONNX Runtime, requirements, the cache, where our packages come from."""
    targets = [*map(_target, names())]
    if not _version(DISTRIBUTION):
        missing = Check(DISTRIBUTION, ok=False, detail="not installed", remedy=f"pip install {DISTRIBUTION}")
        return [missing, *targets, _runtime(), _cache(), *map(_package, PACKAGES)]
    export = [_requirement(wanted, extra=True) for wanted in requirements("export")]
    base = [_requirement(wanted) for wanted in requirements()]
    able = [_exports(export), _builds(targets, export)]
    return [*able, *targets, _runtime(), *base, *export, _cache(), *map(_package, PACKAGES)]


def _exports(needed: list[Check]) -> Check:
    """Whether a checkpoint can become a bundle here."""
    if missing := [check.name for check in needed if not check.ok]:
        return Check("can export", ok=False, detail=f"no: {', '.join(missing)}", remedy=INSTALL, extra=True)
    return Check("can export", ok=True, detail="yes")


def _builds(targets: list[Check], export: list[Check]) -> Check:
    """What engines can be built for here; an installation that can do nothing at all is none."""
    able = [check.name.removeprefix("target ") for check in targets if check.ok]
    useless = not able and not all(check.ok for check in export)
    detail, remedy = ", ".join(able) or "nothing", "" if able else RUNTIME
    return Check("can build for", ok=bool(able), detail=detail, remedy=remedy, extra=not useless)


def _target(name: str) -> Check:
    backend = engine(name)
    if reason := backend.available():
        extra = f"{DISTRIBUTION}[" in backend.install
        return Check(f"target {name}", ok=False, detail=reason, remedy=backend.install, extra=extra)
    return Check(f"target {name}", ok=True, detail=backend.version())


def _runtime() -> Check:
    """Distributions of ONNX Runtime share their files: with two, the last one installed has half won."""
    found = [name for name in RUNTIMES if _version(name)]
    detail = ", ".join(f"{name} {_version(name)}" for name in found) or "not installed"
    if len(found) == 1:
        return Check("ONNX Runtime", ok=True, detail=detail)
    if not found:
        return Check("ONNX Runtime", ok=False, detail=detail, remedy=RUNTIME, extra=True)
    kept = "onnxruntime-gpu" if "onnxruntime-gpu" in found else found[0]
    remedy = f"pip uninstall -y {' '.join(found)} && pip install {kept}"
    return Check("ONNX Runtime", ok=False, detail=f"{detail}: they overwrite each other", remedy=remedy)


def _requirement(wanted: Requirement, *, extra: bool = False) -> Check:
    """Whether what pip was told to install is there, in a version that will do."""
    have = _version(wanted.name)
    ok = have is not None and wanted.specifier.contains(have, prereleases=True)
    remedy = "" if ok else f"pip install '{wanted.name}{wanted.specifier}'"
    return Check(wanted.name, ok, f"{have or 'not installed'} (needs {wanted.specifier})", remedy, extra)


def _cache() -> Check:
    place = cache.base()
    used = cache.size(place) if place.is_dir() else 0
    owner = existing(place)
    ok = owner.is_dir() and os.access(owner, os.W_OK)
    remedy = "" if ok else f"set TP_EXPORT_CACHE to a directory that you may write to, instead of {place}"
    return Check("cache", ok, f"{used / 2**20:.0f} MiB in {place}", remedy)


def _package(package: str) -> Check:
    """Our top-level names are plain words: another distribution or folder may hide or overwrite them."""
    here = Path(str(files(package)))
    rivals = set(metadata.packages_distributions().get(package, [])) - {DISTRIBUTION}
    if rivals:
        others = ", ".join(sorted(rivals))
        remedy = f"use a virtual environment without {others}, and install {DISTRIBUTION} there"
        return Check(f"package {package}", ok=False, detail=f"{others} installs it too", remedy=remedy)
    if here.parent != Path(__file__).parent.parent:
        remedy = "take its folder off PYTHONPATH"
        return Check(f"package {package}", ok=False, detail=f"{here} hides ours", remedy=remedy)
    return Check(f"package {package}", ok=True, detail=str(here))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

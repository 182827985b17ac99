"""Whether the plans of a bundle can run on this machine, before one is opened."""

from collections.abc import Mapping
from typing import Any

from engines.errors import UserError
from engines.trt.gpu import PORTABLE, generation, missing
from engines.trt.native import FULL, RTX, Native, installed, native, numbers

LEAST = {RTX: 86, FULL: 80}  # what a portable plan runs on: TensorRT-RTX's own set begins later


def check_fits(entry: Mapping[str, Any], target: str, module: str, install: str) -> None:
    """Compares what a bundle says of its engines with the runtime and the GPU that are here.

    Args:
        entry: "builder" and "gpu" as a build left them, and "settings" where they are not the defaults.
        target: "trt" or "trt-rtx".
        module: Its Python module.
        install: The command that brings that.

    Raises:
        UserError: What does not fit, and the command that builds engines that do.
    """
    if not installed(module):
        raise UserError(f"engines for {target} need {module}, which is not installed: {install}")
    if reason := missing():
        raise UserError(f"engines for {target} cannot run: {reason}; use the target ort-cpu")
    here, runtime = generation() or "", str(native(module).__version__)
    settings, again = entry.get("settings", {}), f"build them here with tp-export build BUNDLE --target {target}"
    if not _version_fits(entry["builder"], runtime, lasting=settings.get("version_compatible", False)):
        raise UserError(f"these engines are for {module} {entry['builder']}, here is {runtime}: {again}")
    if not _runs_on(native(module), here):
        again = "build them here with tp-export build BUNDLE --target trt"
        raise UserError(f"{module} does not run on this GPU, which is {here}: {again}")
    if not _gpu_fits(entry["gpu"], here, LEAST[module]):
        more = f":{here}" if target == "trt-rtx" else ""
        raise UserError(f"these engines are for {entry['gpu']}, the GPU here is {here}: {again}{more}")


def _version_fits(built: str, runtime: str, *, lasting: bool) -> bool:
    """The same version; later ones of the same major number if the plan was built to last."""
    then, now = numbers(built), numbers(runtime)
    return then[:1] == now[:1] and then <= now if lasting else then[:3] == now[:3]


def _runs_on(trt: Native, here: str) -> bool:
    """TensorRT-RTX knows some generations only."""
    return trt.__name__ != RTX or here.upper() in trt.ComputeCapability.__members__


def _gpu_fits(built: str, here: str, least: int) -> bool:
    return int(here.removeprefix("sm")) >= least if built == PORTABLE else here in built.split(",")

"""A part's build as trtexec is told it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.registry import Profile
from engines.settings import Settings
from engines.trt.versions import Version
from plugins.library import NAME as LIBRARY

FLAGS = {
    "refittable": "--refit",
    "version_compatible": "--versionCompatible",
    "weight_streaming": "--allowWeightStreaming",
}
HARDWARE = {"ampere+": "ampere+", "same-cc": "sameComputeCapability"}
SHAPES = ("--minShapes", "--optShapes", "--maxShapes")
TIMINGS = "timing.cache"


@dataclass(frozen=True)
class Part:
    """One plan: its part's name, the graph's file beside the script, and its profiles."""

    name: str
    graph: str
    profiles: Sequence[Profile]


def arguments(part: Part, version: Version, settings: Settings, workspace: int) -> list[str]:
    """Everything but where the plan goes.

    Args:
        part: What is built.
        version: Of the TensorRT whose trtexec it is.
        settings: The user's wishes.
        workspace: Scratch memory of a layer, MiB.
    """
    found = [f"--onnx={part.graph}", *([version.typed] if version.typed else [])]
    for index, profile in enumerate(part.profiles):
        found += ([f"--profile={index}"] if len(part.profiles) > 1 else []) + _shapes(profile)
    found += [FLAGS[name] for name in FLAGS if name in settings.chosen()]
    if settings.hardware != "exact":
        found.append(f"--hardwareCompatibilityLevel={HARDWARE[settings.hardware]}")
    if settings.plugin:
        found.append(f"--dynamicPlugins=./{LIBRARY}")
        found += [f"--setPluginsToSerialize=./{LIBRARY}"] if settings.version_compatible else []
    return [
        *found,
        f"--memPoolSize=workspace:{workspace}",
        f"--builderOptimizationLevel={3 if settings.level is None else settings.level}",
        f"--timingCacheFile={TIMINGS}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo=plans/{part.name}.layers.json",
        "--skipInference",
    ]


def command(part: Part, arguments: Sequence[str]) -> str:
    """The script's line for one part, an argument a line."""
    words = [shlex.quote(argument) for argument in arguments]
    return " \\\n  ".join([f"build {shlex.quote(part.name)}", *words])


def _shapes(profile: Profile) -> list[str]:
    """Least, usual and largest shapes of all dynamic inputs; a name may hold any letter but a colon or a comma."""
    if not profile:
        return []
    return [f"{flag}={_spec({name: ranges[i] for name, ranges in profile.items()})}" for i, flag in enumerate(SHAPES)]


def _spec(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())

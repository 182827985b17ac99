"""Settings and options as a builder's configuration."""

from collections.abc import Iterable, Sequence

from engines.errors import UserError
from engines.registry import Profile
from engines.settings import Settings
from engines.trt.native import RTX, Native, version_of

FLAGS = {"refittable": "REFIT", "version_compatible": "VERSION_COMPATIBLE", "weight_streaming": "WEIGHT_STREAMING"}
LEVELS = {"ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}


def configured(trt: Native, builder: Native, settings: Settings, gpus: Sequence[str]) -> Native:
    """A configuration with all but the profiles, and with every layer's details in the plan.

    Args:
        trt: The module.
        builder: Its builder.
        settings: What the user wishes.
        gpus: Generations such as "sm89", which only TensorRT-RTX can choose; none for its portable set.

    Raises:
        UserError: This version has no such option.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in FLAGS.keys() & settings.chosen().keys():
        config.set_flag(_member(trt, "BuilderFlag", FLAGS[name], f"--{name.replace('_', '-')}"))
    if settings.hardware != "exact":
        option = f"--hardware-compatible {settings.hardware}"
        config.hardware_compatibility_level = _member(
            trt, "HardwareCompatibilityLevel", LEVELS[settings.hardware], option
        )
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.plugin and settings.version_compatible:  # such a plan brings all that it runs with
        config.plugins_to_serialize = [settings.plugin]
    if trt.__name__ == RTX:
        _generations(trt, config, gpus)
    return config


def create_network(trt: Native, builder: Native) -> Native:
    """A strongly typed network: since 11 there is no other, before it has to be said."""
    weak = trt.__name__ != RTX and version_of(trt) < (11,)
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if weak else 0)


def add_profiles(builder: Native, network: Native, config: Native, profiles: Iterable[Profile]) -> None:
    """Adds shape ranges; each must name every dynamic input, and inputs only (the builder would not say)."""
    inputs = {t.name: -1 in t.shape for t in (network.get_input(i) for i in range(network.num_inputs))}
    for profile in profiles:
        missing = {key for key, dynamic in inputs.items() if dynamic} - profile.keys()
        if odd := missing | (profile.keys() - inputs.keys()):
            raise UserError(f"profile and graph disagree about the inputs {', '.join(sorted(odd))}")
        shapes = builder.create_optimization_profile()
        for key, (low, usual, high) in profile.items():
            shapes.set_shape(key, low, usual, high)
        config.add_optimization_profile(shapes)


def _generations(trt: Native, config: Native, gpus: Sequence[str]) -> None:
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        config.set_compute_capability(known[gpu.upper()], index)


def _member(trt: Native, enum: str, name: str, option: str) -> Native:
    """A value that older versions lack."""
    members = getattr(trt, enum).__members__
    if name not in members:
        raise UserError(f"{trt.__name__} {trt.__version__} cannot build with {option}: update it, or drop the option")
    return members[name]

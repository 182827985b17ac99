"""A part's build as the two TensorRT backends do it: in a child, with what was found in the plan afterwards."""

from engines.child import run_in_child
from engines.registry import BuildJob, BuildResult, Profile
from engines.trt.native import native
from engines.trt.words import RELIEF
from engines.trt.write import partial_file


def build(job: BuildJob, name: str, module: str, gpu: str) -> BuildResult:
    """Builds a plan; its layers are written beside it as PART.layers.json.

    Args:
        job: What.
        name: The target, for errors.
        module: "tensorrt" or "tensorrt_rtx".
        gpu: What the plan will run on, in words.

    Raises:
        UserError: One line of what the parser or the builder said, or of how the child died.
    """
    ranges = "; ".join(in_words(profile) for profile in job.profiles) or "static shapes"
    kwargs = {
        "module": module,
        "onnx": str(job.onnx),
        "out": str(job.out),
        "profiles": [dict(profile) for profile in job.profiles],
        "options": job.options,
        "settings": job.settings.chosen(),
    }
    job.out.parent.mkdir(parents=True, exist_ok=True)
    what = f"building '{job.part}' for {name} ({ranges})"
    try:
        found = run_in_child("engines.trt.build:build_plan", kwargs, what, job.log, job.tell, RELIEF)
    finally:
        partial_file(job.out).unlink(missing_ok=True)
    details = {"builder": str(native(module).__version__), "gpu": gpu}
    details |= {key: found[key] for key in ("fused_attention", "fusion")}
    return BuildResult(job.out, found["seconds"], job.out.stat().st_size, found["peak_mib"], details)


def in_words(profile: Profile) -> str:
    """A profile's first input, enough to know it in an error line: 'pixel_values 1x3x96x96..4x3x96x96'."""
    key, (low, _, high) = next(iter(profile.items()))
    return f"{key} {'x'.join(map(str, low))}..{'x'.join(map(str, high))}"

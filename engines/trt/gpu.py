"""The GPU at hand, without PyTorch."""

from engines.trt.native import Native

NO_GPU = "no NVIDIA GPU here"
NO_CUDA = "cuda-bindings, through which plans reach the GPU, is not installed (pip install cuda-bindings)"
PORTABLE = "portable, Ampere and later"  # of plans


def cuda_runtime() -> Native | None:
    """CUDA's runtime as a Python module; None if it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    return runtime


def missing() -> str | None:
    """What this machine lacks to run plans; None if there is a GPU and what drives it."""
    if not cuda_runtime():
        return NO_CUDA
    return None if gpu() else NO_GPU


def gpu() -> str | None:
    """The first NVIDIA GPU, such as 'sm90 NVIDIA H200'; None if there is none, no driver for it, or nothing to ask."""
    cuda = cuda_runtime()
    error, count = cuda.cudaGetDeviceCount() if cuda else (None, 0)
    if cuda is None or error != cuda.cudaError_t.cudaSuccess or not count:
        return None
    _, found = cuda.cudaGetDeviceProperties(0)
    return f"sm{found.major}{found.minor} {found.name.decode()}" if found else None


def generation() -> str | None:
    """The GPU's generation alone: 'sm90'."""
    found = gpu()
    return found and found.split()[0]

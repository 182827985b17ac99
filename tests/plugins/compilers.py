"""The compilers that tests of the plugins call, and TensorRT's headers."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path


def run(*words, folder="."):
    """A command that must succeed; what it printed."""
    done = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@cache
def nvcc():
    found = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    assert found, "nvcc is not on the PATH: install a CUDA toolkit, 12.6 or newer (developer.nvidia.com/cuda-downloads)"
    return Path(found).resolve()


def headers():
    """The folder of TensorRT's headers, which are not ours to ship."""
    folder = os.environ.get("TRT_INCLUDE_DIR")
    assert folder, "set TRT_INCLUDE_DIR to the folder of NvInferRuntime.h (include/ of github.com/NVIDIA/TensorRT)"
    return folder

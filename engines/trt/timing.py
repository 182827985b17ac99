"""What TensorRT measured on this GPU, kept: a second build does not time the same kernels again."""

import os
import re
from contextlib import suppress
from pathlib import Path

from engines.trt.native import Native


def place(trt: Native, gpu: str) -> Path:
    """The cache's file, one for each version and GPU: in $TP_EXPORT_CACHE, else in the user's cache directory."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("TP_EXPORT_CACHE")
    base = Path(chosen).expanduser().absolute() if chosen else user_cache_path("tp-export")
    return base / "timing" / re.sub(r"[^\w.+-]+", "-", f"{trt.__name__}-{trt.__version__}-{gpu}.cache")


def attach(config: Native, file: Path) -> None:
    """Gives a configuration what is in the file; an absent or a damaged one counts as empty."""
    for known in (_read(file), b""):
        cache = config.create_timing_cache(known)
        if cache and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def keep(config: Native, file: Path) -> None:
    """Writes what a configuration knows now, with what other builds wrote meanwhile; a full disk costs a line only."""
    cache = config.get_timing_cache()
    if other := config.create_timing_cache(_read(file)):
        cache.combine(other, ignore_mismatch=False)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(bytes(cache.serialize()))
        partial.replace(file)
    except OSError as error:
        print(f"WARNING the timing cache was not kept: {error}", flush=True)  # noqa: T201 - into the log
        with suppress(OSError):
            partial.unlink()


def _read(file: Path) -> bytes:
    with suppress(OSError):
        return file.read_bytes()
    return b""

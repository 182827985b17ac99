"""The checkpoints that ship with tp-export, so that its first command works anywhere.

"demo" is small and really trained: it answers questions about drawn shapes. "demo:llava-1.5" has the exact
geometry of LLaVA-1.5 (336 pixels, 576 patches, layer -2) and its file layout, but random weights and small
widths; it is made on first use and kept in the user's cache.
"""

import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from platformdirs import user_cache_path

from engines.errors import UserError

DEMO, LLAVA = "demo", "demo:llava-1.5"
NAMES = (DEMO, LLAVA)
VERSION = 1  # of the generated one: raise it when demo_llava.py or data/llava-1.5 changes


def demo_checkpoint(name: str) -> Path:
    """Return the folder of a built-in checkpoint, made first if need be.

    Raises:
        UserError: no such name, or the cache folder cannot be written.
    """
    if name == DEMO:
        return Path(str(files("exporter"))) / "data" / "demo"
    if name != LLAVA:
        raise UserError(f"there is no built-in model '{name}': use one of {', '.join(NAMES)}")
    folder = cache_folder() / f"demo-llava-1.5-v{VERSION}"
    try:
        return folder if folder.is_dir() else _make(folder)
    except OSError as error:
        raise UserError(f"cannot write the demo model to {folder}: {error.strerror}; set TP_EXPORT_CACHE") from error


def cache_folder() -> Path:
    """Return the folder of things made once: $TP_EXPORT_CACHE, else the user's cache."""
    chosen = os.environ.get("TP_EXPORT_CACHE")
    return Path(chosen) if chosen else user_cache_path("tp-export")


def _make(folder: Path) -> Path:
    """Generate beside the final place, then rename: no one ever sees half a checkpoint."""
    from exporter.demo_llava import generate

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        generate(draft)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same bytes
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder

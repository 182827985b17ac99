"""A plan into its file: as a stream where the builder can, and never under its name before it is complete."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from engines.errors import UserError
from engines.trt.native import Native
from engines.trt.words import complaint


def write(out: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Fills a file beside `out`, then gives it its name.

    Raises:
        UserError: The disk refuses it, or what `fill` raises; nothing is left.
    """
    partial = partial_file(out)
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def partial_file(out: Path) -> Path:
    """What a file is called while it is written; a process that is killed leaves it."""
    return out.with_name(f"{out.name}.partial")


def build_into(trt: Native, builder: Native, network: Native, config: Native, file: IO[bytes]) -> None:
    """Builds straight into a file, so that the plan is never in memory as a whole; old versions know no other way.

    Raises:
        UserError: The builder's first complaint.
        OSError: The file's.
    """
    if hasattr(builder, "build_serialized_network_to_stream"):
        done = _stream(trt, builder, network, config, file)
    else:
        done = plan = builder.build_serialized_network(network, config)
        if plan:
            file.write(memoryview(plan))
    if not done:
        raise UserError(complaint(builder.logger.first))


def _stream(trt: Native, builder: Native, network: Native, config: Native, file: IO[bytes]) -> bool:
    failures: list[OSError] = []

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:  # must not unwind through the builder's frames
                failures.append(error)
                return 0

    done = builder.build_serialized_network_to_stream(network, config, Writer())
    if failures:
        raise failures[0]
    return bool(done)

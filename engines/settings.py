"""What a TensorRT builder may be told beyond the target; the defaults build what an export builds."""

from dataclasses import dataclass, fields
from typing import Any, Literal

Hardware = Literal["exact", "ampere+", "same-cc"]


@dataclass(frozen=True)
class Settings:
    """Wishes for a plan.

    Attributes:
        refittable: another checkpoint's weights can be put into the plan later.
        version_compatible: later TensorRT versions of the same major number run the plan.
        hardware: which GPUs run it: the one it was built on or for; all from Ampere on; all of the same generation.
        weight_streaming: weights may stay in the host's memory, as far as the GPU has no room for them.
        level: the builder's optimisation level, 0 to 5: higher builds longer and looks at more kernels.
        workspace_mib: the most scratch memory that a layer may take, in MiB.
        plugin: path of libtp_export_plugins.so, whose kernels take the place of the selection's functions.
    """

    refittable: bool = False
    version_compatible: bool = False
    hardware: Hardware = "exact"
    weight_streaming: bool = False
    level: int | None = None
    workspace_mib: int | None = None
    plugin: str | None = None

    def chosen(self) -> dict[str, Any]:
        """The settings that differ from what an export builds with, by name."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in told.items() if value != getattr(PLAIN, key)}


PLAIN = Settings()

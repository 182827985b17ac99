"""Peaks of GPUs that people deploy to: dense fp16 arithmetic and memory bandwidth."""

from dataclasses import dataclass

from engines.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One GPU: dense fp16 peak in TFLOP/s, memory bandwidth in GB/s, and where they come from."""

    name: str
    tflops: float
    gbps: float
    source: str

    @property
    def flops(self) -> float:
        """Peak, FLOP/s."""
        return self.tflops * 1e12

    @property
    def bandwidth(self) -> float:
        """Memory bandwidth, bytes/s."""
        return self.gbps * 1e9

    def seconds(self, flops: float, read: float) -> float:
        """Return the roofline: the longer of computing and of reading so many bytes."""
        return max(flops / self.flops, read / self.bandwidth)


GPUS = {
    "h200": Gpu("H200", 790, 4300, "measured"),
    "h100": Gpu("H100 SXM", 989.4, 3350, "NVIDIA data sheet, without sparsity"),
    "a100": Gpu("A100 80 GB SXM", 312, 2039, "NVIDIA data sheet, without sparsity"),
    "l4": Gpu("L4", 121, 300, "NVIDIA data sheet, halved for no sparsity"),
    "l40s": Gpu("L40S", 362, 864, "NVIDIA data sheet, without sparsity"),
    "rtx4090": Gpu("RTX 4090", 165.2, 1008, "Ada white paper: fp16 with fp32 accumulation, without sparsity"),
    "orin": Gpu("Jetson AGX Orin 64 GB", 42.5, 204.8, "derived from the specification"),
    "thor": Gpu("Jetson Thor T5000", 250, 273, "estimated; clocks not verified"),
}


def gpu_named(name: str) -> Gpu:
    """Look up a GPU.

    Raises:
        UserError: The name is not in the table.
    """
    if name.lower() not in GPUS:
        raise UserError(f"unknown GPU '{name}': use one of {', '.join(GPUS)}")
    return GPUS[name.lower()]

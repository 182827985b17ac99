"""Every part of a bundle, on the inputs that the fp32 reference on the CPU gave it, beside that reference's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ours import decoder_feeds
from benchmarks.work import Bench, Work
from engines.parity import SHARED
from engines.registry import engine
from tools.gpu.finding import Finding

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Runner = Callable[[Arrays, Arrays], Arrays]  # inputs, and outputs that are wanted, for their shapes
Steps = dict[str, tuple[Arrays, Arrays]]  # by part: what goes in, what comes out
BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}  # |difference| / |reference|, as Euclidean norms
WANTED = {"vision": ("image_embeds", "kept_indices"), "embed": ("inputs_embeds",), "decoder": ("logits",)}


def reference(bench: Bench, batch: int) -> Steps:
    """All parts one after the other, in fp32, in ONNX Runtime on the CPU; each is loaded for its turn only."""
    work, graphs, steps = Work(bench, batch), bench.graphs("pruned"), Steps()

    def run(part: str, feeds: Arrays) -> Arrays:
        outputs = engine("ort-cpu").load(graphs[part])(feeds)
        steps[part] = feeds, {name: outputs[name] for name in WANTED[part]}
        return steps[part][1]

    rows = run("vision", {"pixel_values": work.pixels})["image_embeds"]
    tokens = {"input_ids": work.tokens(rows.shape[1]), "image_embeds": rows.reshape(-1, rows.shape[2])}
    run("decoder", decoder_feeds(work, run("embed", tokens)["inputs_embeds"]))
    return steps


def compared(section: str, steps: Steps, dtype: str, runner: Callable[[str], Runner]) -> Iterator[Finding]:
    """Each part in another precision and engine; `runner` opens one."""
    for part, (feeds, wanted) in steps.items():
        found = runner(part)(feeds, wanted)
        yield _finding(section, f"{part}, {dtype}, batch {len(next(iter(feeds.values())))}", found, wanted, dtype)


def _finding(section: str, what: str, found: Arrays, wanted: Arrays, dtype: str) -> Finding:
    figures, good, words = dict[str, float](), True, list[str]()
    if "kept_indices" in wanted:
        places = [np.intersect1d(a, b, return_indices=True) for a, b in zip(*_kept(found, wanted), strict=True)]
        figures["kept"] = float(np.mean([len(each[0]) for each in places])) / wanted["kept_indices"].shape[1]
        good, words = figures["kept"] >= (1.0 if dtype == "fp32" else SHARED), [f"{figures['kept']:.1%} of kept"]
        found = {"image_embeds": _rows(found["image_embeds"], [each[1] for each in places])}
        wanted = {"image_embeds": _rows(wanted["image_embeds"], [each[2] for each in places])}
    for name, values in wanted.items():
        figures[name] = error = distance(found[name], values)
        good = good and error <= BOUNDS[dtype]
        words.append(f"{name} off by {error:.1e}, at most {BOUNDS[dtype]:.0e}")
    return Finding(section, what, good, "; ".join(words), figures)


def _kept(found: Arrays, wanted: Arrays) -> tuple[Array, Array]:
    return found["kept_indices"], wanted["kept_indices"]


def _rows(values: Array, places: list[Array]) -> Array:
    """Rows that both have kept."""
    return np.concatenate([rows[place] for rows, place in zip(values, places, strict=True)])


def distance(found: Array, wanted: Array) -> float:
    """Relative, in the Euclidean norm; infinite where a number is none."""
    difference = found.astype(np.float64).reshape(wanted.shape) - wanted
    value = float(np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30))
    return value if np.isfinite(value) else float("inf")


def onnxruntime_runner(bench: Bench, part: str) -> Runner:
    """ONNX Runtime on the bench's device."""
    from benchmarks.bound import Bound
    from benchmarks.torch_stock import on_device
    from benchmarks.work import array

    bound = Bound(bench.graphs("pruned")[part], bench.device)

    def run(feeds: Arrays, wanted: Arrays) -> Arrays:
        tensors = {name: on_device(bench, value).contiguous() for name, value in feeds.items()}
        found = bound.run(tensors, {name: value.shape for name, value in wanted.items()})
        return {name: np.asarray(array(value)) for name, value in found.items()}

    return run


def plan_runner(bench: Bench, part: str, target: str, batch: int, folder: Path) -> Runner:
    """A plan of a TensorRT target, built and run here."""
    import onnx

    from engines.profiles import Limits, profiles
    from engines.registry import BuildJob

    graph, backend = bench.graphs("pruned")[part], engine(target)
    inputs = onnx.load(graph, load_external_data=False).graph.input
    types = {port.name: onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type) for port in inputs}
    axes = {port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] for port in inputs}
    shapes = profiles(part, axes, Limits(batch, 1024, bench.keep, 1))
    out = folder / f"{part}.{bench.dtype}.{target}.plan"
    backend.build(BuildJob(part, graph, out, out.with_suffix(".log"), shapes, getattr(backend, "at_hand", tuple)()))
    plan = backend.load(out)
    return lambda feeds, _: plan({name: value.astype(types[name]) for name, value in feeds.items()})


def plans_possible() -> dict[str, str | None]:
    """TensorRT targets, and why each cannot be built here."""
    return {name: engine(name).available() for name in ("trt", "trt-rtx")}

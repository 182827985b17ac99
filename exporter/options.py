"""Options that several commands have, and how their values are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from engines.errors import UserError

Command = TypeVar("Command", bound=Callable[..., Any])
DTYPES = ["fp32", "fp16", "bf16"]
HELP = {
    "model": "Checkpoint directory, hub id, demo or demo:llava-1.5.",
    "method": "How tokens are selected; `tp-export methods` lists them.",
    "keep": "Tokens to keep per image: a count (64), a ratio (0.11) or a percentage (11%).",
    "param": "A parameter of the method.",
    "input": "What the model is to look at; by default what its family takes first.",
    "grid": "A grid of tiles, ROWSxCOLS, of models that cut pictures into tiles; by default all that they know.",
    "image-size": "Size of pictures, WIDTHxHEIGHT, of models that take any; by default the checkpoint's own.",
    "frames": "Frames of a video; by default the family's own number.",
    "aux": "What else the method reads: clip=DIR, the CLIP model whose tower the model has; router=FILE, its weights.",
    "buckets": "Prompt lengths, such as 256,512,1024, of methods that cut the prompt itself; shorter ones are padded.",
    "kv": "Caches that grow with every token, or of constant length (--max-length) that tokens are written into.",
    "opset": "Opset of every graph: 20 for TensorRT 10.3 (JetPack 6), 24 writes into static caches in place.",
    "indices": "Type of inputs and outputs that are whole numbers.",
    "weights": "Files of the bundle's own, or hard links to the checkpoint's, which both must stay as they are.",
    "plugin": "Also write the graphs that a TensorRT plugin needs: selections as functions, over the same weights.",
    "target": "What engines are built for: ort-cpu, ov-cpu, trt, trt-rtx[:sm86,sm89]; auto: all that this machine can.",
    "dtype": "Precision of every target; by default each has its own.",
    "output": "The bundle's directory; by default named after model, method and budget.",
    "force": "Replace a bundle that is there.",
    "max-batch": "Largest batch of every engine.",
    "max-length": "Most tokens of one sequence, pictures included; by default the model's limit, at most 2048.",
    "images": "Pictures per prompt where the decoder is pruned.",
    "gpu": "The GPU whose ceiling is printed.",
    "parity": "What is compared with PyTorch: all, the vision parts alone (large models), or nothing.",
    "accept-parity": "Publish even if parity with PyTorch fails.",
}

BUILD = {
    "max-length": "Most tokens of one sequence, pictures included; by default as many as the bundle was exported for.",
    "max-batch": "Largest batch; by default that which the bundle was exported for.",
    "dtype": "Precision of the engines; by default each target has its own.",
    "weights": "Weights in fewer bits, block by block, rounded to nearest; engines compute in their precision still.",
    "refittable": "Another checkpoint's weights can be put into the plan later.",
    "version-compatible": "Later TensorRT versions of the same major number run the plan.",
    "hardware-compatible": "Other GPUs run the plan, too: all from Ampere on, or all of this generation.",
    "weight-streaming": "Weights for which the GPU has no room may stay in the host's memory.",
    "level": "How hard the builder looks for fast kernels.",
    "workspace": "The most scratch memory of a layer, in MiB.",
    "plugin": "The library libtp_export_plugins.so, whose kernels then select; it goes into the bundle.",
    "refit-from": "A bundle whose refittable plan gets this bundle's weights, instead of building one.",
    "store": "A directory where engines are kept and found again, such as one that a fleet shares; else the cache.",
    "matrix": "Models, methods, budgets and targets: builds what is missing of all their combinations.",
    "output": "With --matrix or --script: the directory that gets what is made.",
    "script": "Write a directory from which a Jetson board builds the plans: graphs, trtexec commands, README.",
    "jetpack": "With --script: the board's JetPack, whose TensorRT the graphs are written for and checked against.",
    "board": "With --script: the board, whose GPU and memory are checked, too.",
    "jobs": "With --matrix: most jobs at once; by default what CPUs and memory of this machine allow.",
    "ray": "With --matrix: build on the Ray cluster of this address (or local, auto) instead of in processes here.",
}


def option(name: str, *more: str, **settings: Any) -> Callable[[Command], Command]:
    """An option whose help is above."""
    return click.option(f"--{name}", *more, help=HELP[name], **settings)


def build_option(name: str, *more: str, **settings: Any) -> Callable[[Command], Command]:
    """An option of `build`, where some mean something of their own."""
    return click.option(f"--{name}", *more, help=BUILD.get(name) or HELP[name], **settings)


def pairs(option: str, what: str, given: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE of a repeated option, by name; UserError for anything else."""
    found = dict[str, str]()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: write it as NAME={what}")
        found[name] = value
    return found


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Numbers with commas between; UserError for anything else."""
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
        raise UserError(f"{option} {text}: write numbers with commas between, such as 256,512,1024")
    return tuple(map(int, parts))

"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console

from engines.errors import UserError
from exporter import __version__
from exporter.last_words import last_words

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
    "target": "What engines are built for: ort-cpu, trt-rtx[:sm86,sm89]; auto is all that this machine can build.",
    "dtype": "Precision of every target; by default each has its own.",
    "output": "The bundle's directory; by default named after model, method and budget.",
    "force": "Replace a bundle that is there.",
    "max-batch": "Largest batch of every engine.",
    "max-length": "Most tokens of one sequence, pictures included; by default the model's limit, at most 2048.",
    "images": "Pictures per prompt where the decoder is pruned.",
    "gpu": "The GPU whose ceiling is printed.",
    "accept-parity": "Publish even if parity with PyTorch fails.",
}


def _option(name: str, *more: str, **settings: Any) -> Callable[[Command], Command]:
    return click.option(f"--{name}", *more, help=HELP[name], **settings)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tp-export")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@_option("model", default="demo", show_default=True)
@_option("method", default=None)
@_option("keep", default=None)
@_option("param", "params", multiple=True, metavar="NAME=VALUE")
@_option("input", type=click.Choice(["image", "video"]), default=None)
@_option("grid", "grids", multiple=True, metavar="RxC")
@_option("image-size", metavar="WxH", default=None)
@_option("frames", type=int, default=None)
@_option("aux", multiple=True, metavar="NAME=PATH")
@_option("buckets", metavar="N,N,…", default=None)
@_option("kv", type=click.Choice(["growing", "static"]), default="growing", show_default=True)
@_option("target", "targets", multiple=True, default=("auto",), show_default=True)
@_option("dtype", type=click.Choice(DTYPES), default=None)
@_option("output", "-o", type=click.Path(path_type=Path), default=None)
@_option("force", is_flag=True)
@_option("max-batch", type=int, default=4, show_default=True)
@_option("max-length", type=int, default=None)
@_option("images", type=int, default=1, show_default=True)
@_option("gpu", default="h200", show_default=True)
@_option("accept-parity", is_flag=True)
@click.pass_context
def tp_export(context: click.Context, /, debug: bool, **options: Any) -> None:
    """Compile visual token pruning into static inference engines.

    Without a command it exports: --method and --keep say what, and a bundle of verified engines is left.
    """
    context.obj = debug
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in options and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given and context.invoked_subcommand is not None:
        raise UserError(f"{given[0]} belongs to an export: write the options of {context.invoked_subcommand} behind it")
    if given and options["method"] is None:
        raise UserError("--method is missing: say how tokens are selected (tp-export methods lists all)")
    if given:
        _export(**options)
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


def _export(
    output: Path | None,
    force: bool,
    accept_parity: bool,
    params: tuple[str, ...],
    aux: tuple[str, ...],
    buckets: str | None,
    **options: Any,
) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from engines.summary import summary
    from engines.tables import print_tables
    from exporter.export import export
    from exporter.recipe import Recipe

    recipe = Recipe(
        **options,
        params=_pairs("--param", "VALUE", params),
        aux=_pairs("--aux", "PATH", aux),
        buckets=_numbers("--buckets", buckets),
    )
    console = Console()
    outcome = export(recipe, output or Path(recipe.name), console, force=force, accept=accept_parity)
    console.print()
    print_tables(summary(outcome.contract, outcome.parity), console)
    place = str(outcome.path)
    console.print(f"{place}: parity {outcome.parity['verdict']}", markup=False, highlight=False, soft_wrap=True)
    drawn = f"{place}/preview.png and " if (outcome.path / "preview.png").exists() else ""
    console.print(f"Look at {drawn}{place}/report.html", markup=False, highlight=False, soft_wrap=True)


def _pairs(option: str, what: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs = dict[str, str]()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: write it as NAME={what}")
        pairs[name] = value
    return pairs


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
        raise UserError(f"{option} {text}: write numbers with commas between, such as 256,512,1024")
    return tuple(map(int, parts))


@tp_export.command()
@click.argument("name", required=False)
@click.option("--matrix", is_flag=True, help="Which method works on which model family, or why not.")
def methods(name: str | None, matrix: bool) -> None:
    """List the methods, or describe one."""
    from engines.tables import print_tables
    from exporter import catalogue
    from exporter.catalogue import describe, listing

    if matrix:
        print_tables([catalogue.matrix()], Console())
    elif name is None:
        print_tables([listing()], Console())
    else:
        click.echo(describe(name))


@tp_export.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def inspect(bundle: Path) -> None:
    """Show what a bundle holds."""
    from engines.bundle import open_bundle
    from engines.contract import wrong_entries_in_words
    from engines.json_file import read_object
    from engines.summary import details, summary
    from engines.tables import print_tables

    opened = open_bundle(bundle)
    parity = read_object(bundle / "parity.json")
    with wrong_entries_in_words(bundle):
        tables = [*details(opened.contract), *summary(opened.contract, parity)]
    print_tables(tables, Console())


@tp_export.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def check(bundle: Path) -> None:
    """Verify a bundle's files, and its engines against the saved PyTorch reference."""
    from engines import parity
    from engines.bundle import open_bundle
    from engines.checkup import check as run_check
    from engines.summary import parity_table
    from engines.tables import print_tables

    opened = open_bundle(bundle)
    told = parity.told(dict(run_check(opened)))
    click.echo(f"{len(opened.contract['files'])} files are what was exported")
    print_tables([parity_table(told)], Console())
    if told["verdict"] != "pass":
        sys.exit(1)


@tp_export.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture; repeat for several."
)
@click.option(
    "--video",
    "videos",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A GIF, WebP or APNG animation, or a folder of pictures in the order of their names; comes behind the images.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="A question; repeat for follow-ups. Without it they are read, line by line.",
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True, help="Longest answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens up to this probability.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option("--target", default="ort-cpu", show_default=True, help="Which of the bundle's engines.")
@click.option(
    "--scorer", type=click.Path(path_type=Path), help="A bundle that scores frames, for methods that ask (quota)."
)
def run(
    bundle: Path,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    prompts: tuple[str, ...],
    max_new_tokens: int,
    scorer: Path | None,
    **sampling: Any,
) -> None:
    """Answer questions about pictures and videos from the engines alone."""
    from engines.chat import Chat
    from engines.images import open_image
    from engines.sampling import Sampler
    from engines.scorer import Scorer
    from engines.session import Session
    from engines.videos import Picture, open_video

    target = sampling.pop("target")
    sampler = Sampler(**sampling)
    pictures: list[Picture] = [*map(open_image, images), *map(open_video, videos)]
    chat = Chat(Session.open(bundle, target), None if scorer is None else Scorer(Session.open(scorer)))
    if not prompts and sys.stdin and sys.stdin.isatty():
        click.echo("Ask; an empty line is passed over, end with Ctrl-D.", err=True)
    for question in prompts or filter(None, (line.strip() for line in sys.stdin or ())):
        for piece in chat.ask(question, pictures, max_new_tokens, sampler):
            click.echo(piece, nl=False)
        click.echo()
        pictures = []


@tp_export.command()
@_option("model", default="demo", show_default=True)
@_option("method", required=True)
@_option("keep", required=True)
@_option("param", "params", multiple=True, metavar="NAME=VALUE")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture to learn from; repeat for many. By default those that ship with tp-export.",
)
def calibrate(images: tuple[Path, ...], params: tuple[str, ...], **options: Any) -> None:
    """Learn a parameter that a method otherwise computes anew for every picture, and print it for --param."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from exporter.calibrate import calibrate as learn
    from exporter.recipe import Recipe

    click.echo(learn(Recipe(**options, params=_pairs("--param", "VALUE", params)), images))


@tp_export.command()
def doctor() -> None:
    """Say what this machine can build, what is missing, and what to install."""
    from engines.tables import Table, print_tables
    from exporter.doctor import diagnose

    checks = diagnose()
    rows = tuple((c.name, "ok" if c.ok else "no", c.detail, c.remedy) for c in checks)
    print_tables([Table("This machine", ("what", "", "found", "what to do"), rows)], Console())
    if not all(check.ok for check in checks):
        sys.exit(1)


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show must not end an answer
    with last_words(debug="--debug" in sys.argv):
        tp_export.main(prog_name="tp-export", standalone_mode=False)
    sys.exit(0)

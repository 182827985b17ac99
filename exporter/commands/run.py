"""Answers from a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
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
@click.option(
    "--target",
    default="ort-cpu",
    show_default=True,
    help="Which of the bundle's engines: a label, or a target if that is enough.",
)
@click.option(
    "--memory",
    type=click.Choice(["auto", "fast", "low"]),
    default="auto",
    show_default=True,
    help="low leaves the weights on the disk and reads them for every token; auto is fast, if that fits.",
)
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

    target, memory = sampling.pop("target"), sampling.pop("memory")
    sampler = Sampler(**sampling)
    pictures: list[Picture] = [*map(open_image, images), *map(open_video, videos)]
    chat = Chat(
        Session.open(bundle, target, memory=memory),
        None if scorer is None else Scorer(Session.open(scorer, memory=memory)),
    )
    if not prompts and sys.stdin and sys.stdin.isatty():
        click.echo("Ask; an empty line is passed over, end with Ctrl-D.", err=True)
    for question in prompts or filter(None, (line.strip() for line in sys.stdin or ())):
        for piece in chat.ask(question, pictures, max_new_tokens, sampler):
            click.echo(piece, nl=False)
        click.echo()
        pictures = []

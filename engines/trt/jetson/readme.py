"""README.txt beside the script: what to copy, what it takes, what comes out."""

from collections.abc import Mapping, Sequence

from engines.trt.jetson.boards import JetPack
from engines.trt.jetson.commands import Part
from engines.trt.jetson.needs import Needs, table
from engines.units import size

TEXT = """Plans of {bundle} for JetPack {jetpack} ({tensorrt}), built on the board
{rule}

1. Copy this directory, and the weights beside its graphs{large}:

     rsync -a --info=progress2 {folder}/ BOARD:{name}/
{copies}

2. On the board:

     cd {name} && ./build_on_device.sh

   It refuses another TensorRT, checks the sha256 of every file, builds one plan after the other and stops at the first
   failure; what trtexec said is in logs/. Run again, it goes on where it stopped.

3. What is there then:

{plans}
     timing.cache             what was measured on this board; it makes the next build fast

Memory
------
{parts}
     caches, largest batch    {cache}
     building takes about     {building}   (system, twice the largest weights, {workspace} MiB of scratch)
     running takes about      {running}   (system, all weights, caches)

{boards}

   These are sums over the bundle's own numbers, not measurements: no board was at hand. If building runs out of memory,
   close everything else, add swap, or write the directory again with a smaller --workspace or --level.

Using the plans
---------------
A plan has the inputs and outputs of its part in the bundle's bundle.json (see docs/bundle.md of tp-export).
{profiles}
It runs on this kind of board with this TensorRT, and nowhere else. C++, Python and Triton load it as any
plan, and `trtexec --loadEngine=plans/PART.plan` times it. Where tp-export itself is installed on the board, with the
bundle, `tp-export build BUNDLE --target trt` builds the same plans into it, and `tp-export run` uses them.
"""


def readme(
    bundle: str, folder: str, jetpack: JetPack, parts: Sequence[Part], shards: Mapping[str, int], needs: Needs
) -> str:
    """The whole text.

    Args:
        bundle: path of the bundle, as the user wrote it.
        folder: path of the directory, as the user wrote it.
        jetpack: what the graphs are for.
        parts: what is built.
        shards: bytes of the files of weights that the graphs read, by name in the bundle.
        needs: of memory.
    """
    name = folder.rstrip("/").rsplit("/", 1)[-1]
    title = f"Plans of {bundle} for JetPack {jetpack.name} ({jetpack.version.label}), built on the board"
    steps = [part.name for part in parts if len(part.profiles) > 1]
    two = (
        f"Of {' and '.join(steps)} profile 0 reads prompts, profile 1 single tokens."
        if steps
        else "It has one profile."
    )
    return TEXT.format(
        bundle=bundle,
        folder=folder,
        name=name,
        jetpack=jetpack.name,
        tensorrt=jetpack.version.label,
        rule="=" * len(title),
        large=f" ({size(sum(shards.values()))})" if shards else "",
        copies="\n".join(_copy(bundle, name, shard, count) for shard, count in shards.items()),
        plans="\n".join(f"     plans/{part.name + '.plan':<19}and plans/{part.name}.layers.json" for part in parts),
        parts="\n".join(f"     {'weights of ' + part:<25}{size(count)}" for part, count in needs.weights.items()),
        cache=size(needs.cache),
        building=size(needs.building),
        running=size(needs.running),
        workspace=needs.workspace,
        boards="\n".join(f"     {line}" for line in table(needs, (8, 16, 32, 64))),
        profiles=two,
    )


def _copy(bundle: str, name: str, shard: str, count: int) -> str:
    folder = shard.rsplit("/", 1)[0]
    return f"     rsync -a --info=progress2 {bundle}/{shard} BOARD:{name}/{folder}/     # {size(count)}"

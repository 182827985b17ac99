"""The parts of a bundle as functions over arrays, fed with exactly the inputs that the contract lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from engines.contract import Contract
from engines.errors import UserError
from engines.geometry import Ints, Seen
from engines.kv import Arrays
from engines.registry import Runner

FLOATS: Mapping[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


class Parts:
    """Runs parts.

    Args:
        contract: The facts of the bundle.
        runners: One callable per part, named as in the contract.
        dtype: The precision of the parts' floats, "fp32", "fp16" or "bf16".

    Raises:
        UserError: The precision is none of these, or a part is missing.
    """

    def __init__(self, contract: Contract, runners: Mapping[str, Runner], dtype: str) -> None:
        if dtype not in FLOATS:
            raise UserError(f"precision '{dtype}': bundles are run in {' or '.join(FLOATS)}")
        missing = sorted(contract.inputs.keys() - runners.keys())
        if missing:
            raise UserError(f"no engine for the part(s) {', '.join(missing)}: build the target again")
        self.contract = contract
        self.float = FLOATS[dtype]
        self._runners = runners
        # The embed part always takes a row; text alone gets this one, which no token asks for.
        self._no_rows = np.zeros((1, contract.hidden_size), self.float)

    def run(self, part: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Runs one part; inputs that its graph does not have are left out, whole numbers get the type that it takes.

        Raises:
            UserError: The part wants an input that is not there.
        """
        wanted = self.contract.inputs[part]
        unknown = sorted(set(wanted) - feeds.keys())
        if unknown:
            raise UserError(f"part '{part}' wants {', '.join(unknown)}, which no one provides: export it again")
        narrow = self.contract.narrow[part]
        given = {name: feeds[name].astype(np.int32) if name in narrow else feeds[name] for name in wanted}
        return self._runners[part](given)

    def embed(self, input_ids: Ints, seen: Seen) -> NDArray[Any]:
        """Looks up embeddings; placeholders take the rows of the pictures seen, in order.

        Args:
            input_ids: [B, T], a placeholder K times per picture.
            seen: What `Sight.see` returned for these pictures.

        Returns:
            [B, T, D].
        """
        rows = np.concatenate([picture["image_embeds"] for picture in seen] or [self._no_rows])
        return self.run("embed", {"input_ids": input_ids, "image_embeds": rows})["inputs_embeds"]

    def carried(self, part: str, counts: Sequence[int], seen: Seen) -> dict[str, NDArray[Any]]:
        """Arranges the scores that vision hands on to a prefill part by prompt and picture.

        Args:
            part: Which.
            counts: Pictures of each prompt.
            seen: What `Sight.see` returned for all of them.

        Returns:
            "carry.NAME" -> [B, I, K], zeros where a prompt has fewer pictures.
        """
        assert self.contract.split
        names = [name for name in self.contract.inputs[part] if name.startswith("carry.")]
        shape = (len(counts), self.contract.images, self.contract.split.tokens)
        places = np.arange(self.contract.images) < np.asarray(counts)[:, None]
        arranged = {name: np.zeros(shape, np.float32) for name in names}
        for name in names if seen else []:
            arranged[name][places] = np.stack([picture[name] for picture in seen])
        return arranged

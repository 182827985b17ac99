"""OpenVINO GenAI's own pruning (CDPruner in C++): not comparable with the others yet, and this says why.

By its documentation `VLMPipeline.generate(..., pruning_ratio=89)` prunes Qwen2-VL, Qwen2.5-VL and Qwen3-VL only. To
compare, `ready` must make two pipelines over one directory in optimum-intel's layout of such a model: patch embeddings
and their merger as two graphs, token embeddings, a stateful decoder with three-axis positions and `beam_idx`, tokenizer
and detokenizer. Then `result.perf_metrics.get_ttft()` is the first token; vision alone is not to be had.
"""

from __future__ import annotations

from typing import NoReturn

from benchmarks.work import Work
from engines.errors import UserError

TITLE = "CDPruner, OpenVINO GenAI"
NEEDS = ("openvino_genai",)
INSTALL = "pip install openvino-genai"


def ready(work: Work, side: str) -> NoReturn:  # noqa: ARG001 - the contract of every peer
    """Refuses.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"it prunes Qwen2-VL, Qwen2.5-VL and Qwen3-VL only, not the LLaVA that all lines run ({work.bench.model.name})"
    )

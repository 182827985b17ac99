"""How much each frame of a video bears on a question, as any bundle that looks at pictures says it."""

from dataclasses import replace

import numpy as np

from engines.errors import UserError
from engines.session import Session
from engines.videos import Video

ASKED = (
    "Does the image contain sufficient information to answer the given question? Question: {question}\n"
    "A. yes, B. no\nAnswer with the option's letter from the given choices directly."
)
YES = "A"


class Scorer:
    """A vision-language model that is asked about frames.

    Args:
        session: Its parts.

    Raises:
        UserError: The model takes no pictures.
    """

    def __init__(self, session: Session) -> None:
        if not any(form.kind == "image" for form in session.contract.geometry.forms):
            raise UserError("--scorer: this bundle takes no pictures; give one that does")
        self._session = session
        self._yes = session.prompt.encode(YES)[-1]

    def scored(self, video: Video, question: str, frames: int) -> Video:
        """The video with a score for each of the `frames` that will be shown: the probability of "A" for "yes"."""
        session = self._session
        content = [{"type": "image"}, {"type": "text", "text": ASKED.format(question=question)}]
        ids = session.prompt.encode(session.prompt.render([{"role": "user", "content": content}]))
        scores = []
        for frame in video.sampled(frames):
            logits = session.prefill([ids], [[frame]])[1][0].astype(np.float64)
            odds = np.exp(logits - logits.max())
            scores.append(float(odds[self._yes] / odds.sum()))
        return replace(video, scores=tuple(scores))

"""From pictures to the rows that stand for them: each picture through the vision part of the form that suits it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.errors import UserError
from engines.forms import Form
from engines.geometry import Seen
from engines.parts import Parts
from engines.prompt import Prompt
from engines.tiles import choose, pixel_values
from engines.videos import Picture, Video
from engines.words import Words

Prompts = Sequence[Sequence[int]]


class Sight:
    """The vision parts of a bundle.

    Args:
        parts: The bundle's parts.
        prompt: Its tokenizer; only for parts that read a question.

    Raises:
        UserError: A part reads a question, and CLIP's tokenizer is missing or damaged.
    """

    def __init__(self, parts: Parts, prompt: Prompt | None = None) -> None:
        self._parts, self._words = parts, Words(parts, prompt)
        self._forms, self._at_once = parts.contract.geometry.forms, parts.contract.at_once

    def see(
        self, pictures: Sequence[Picture], prompts: Prompts | None = None, questions: Sequence[str] | None = None
    ) -> Seen:
        """Encodes pictures; those of one form together, as many at once as the export allows.

        Args:
            pictures: Images and videos.
            prompts: For each picture the tokens of the prompt that it stands in; only for parts that read them.
            questions: For each picture what the user asks; if not given, the text of its prompt.

        Returns:
            One dict a picture, in order: the vision part's outputs without the batch axis, and "form", its number.

        Raises:
            UserError: No form takes such a picture, or the part reads prompts and there are none.
        """
        chosen = [choose(self._forms, picture) for picture in pictures]
        seen: list[dict[str, Any]] = [{"form": number} for number in chosen]
        for number in sorted(set(chosen)):
            places = [i for i, each in enumerate(chosen) if each == number]
            step = self._at_once(self._forms[number].part)
            for first in range(0, len(places), step):
                batch = places[first : first + step]
                given = [None if each is None else [each[i] for i in batch] for each in (prompts, questions)]
                outputs = self._look(self._forms[number], [pictures[i] for i in batch], *given)
                for row, place in enumerate(batch):
                    seen[place] |= {name: values[row] for name, values in outputs.items()}
        return seen

    def _scores(self, form: Form, pictures: Sequence[Picture]) -> dict[str, Any]:
        """What a scorer said of the frames, where the part wants it."""
        if "frame_scores" not in self._parts.contract.inputs[form.part]:
            return {}
        scores = [picture.scores for picture in pictures if isinstance(picture, Video)]
        if None in scores:
            raise UserError(f"part '{form.part}' shares out tokens by the frames' scores: give --scorer BUNDLE")
        return {"frame_scores": np.array(scores, np.float32)}

    def _look(self, form: Form, pictures: Sequence[Picture], prompts: Any, questions: Any) -> dict[str, Any]:
        """One run of a vision part."""
        pixels = np.stack([pixel_values(picture, form.preprocess) for picture in pictures])
        words = self._words.feeds(form.part, prompts, questions) | self._scores(form, pictures)
        found = self._parts.run(form.part, {"pixel_values": pixels.astype(self._parts.float), **words})
        if found["image_embeds"].shape[1] != form.tokens:
            raise UserError(
                f"part '{form.part}' gives {found['image_embeds'].shape[1]} rows a picture, bundle.json says "
                f"{form.tokens}: export it again"
            )
        return found

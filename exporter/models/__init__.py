"""One model family a file: where its tensors live; no maths of selection."""

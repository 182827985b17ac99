"""Tensor maths that methods share: searches, clusters, windows, flows. One idea a file, no model in sight."""

"""The graphs of one export as modules, one part a file."""

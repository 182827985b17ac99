"""One command a file: `arguments(parser)` declares its options, `main(options)` runs it and returns the exit code."""

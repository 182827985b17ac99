"""Graph to graph, exact: one pass a file, each reporting what it changed or why it refused."""

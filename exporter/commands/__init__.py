"""The commands: one a file, each a thin call into the library; `command` is what click is given."""

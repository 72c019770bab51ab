"""The command line: one file per command group, and the only room that prints."""

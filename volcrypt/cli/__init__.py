"""The terminal: parse, call an operation, print; an error becomes a line and an exit code."""

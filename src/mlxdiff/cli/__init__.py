"""The command line: each command parses, builds a Request, calls one function and prints."""

"""Parsed prompts to chunks of token ids; one file per program."""

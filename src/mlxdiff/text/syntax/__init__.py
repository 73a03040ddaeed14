"""Prompts to what they say, when and how strongly; one file per program."""

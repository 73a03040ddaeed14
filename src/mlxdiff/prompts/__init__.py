"""The prompts of a request: read as their syntax says, encoded for the networks, and shown to whoever asks.

parsing   which parts a prompt has, and what of it is not done
encoding  prompts to conditionings, kept for requests that say the same
report    what a prompt tells a model, as data

Syntaxes, chunks and the tokenizer are the business of text/, which knows no request.
"""

"""The networks, one architecture a file. They know nothing of files, prompts, samplers or devices."""

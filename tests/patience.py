"""How long a test waits for what certainly comes. Only a fault lasts longer, on the busiest machine."""

WAIT = 300  # seconds

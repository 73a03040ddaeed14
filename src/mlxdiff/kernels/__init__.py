"""Fused operations of the networks, one a file: plain MLX, what a chip has for it, and the choice among them."""

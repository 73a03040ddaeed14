"""The computer that mlxdiff runs on, as the operating system describes it. Knows nothing of MLX's arrays and devices.

control_groups  where Linux says how far a container or systemd limits this process
cores           how many cores are free for this process
ram             how many bytes of memory it may take
elf             the jump table of a loaded library
blas            which BLAS MLX calls on a Linux CPU
power           battery and heat

The device that MLX computes on is the business of backend.py.
"""

"""The mathematics of sampling, which knows no network and no checkpoint layout.

noise       standard normal draws: torch's, CUDA's or MLX's numbers
brownian    noise whose steps share a path: k-diffusion's and ComfyUI's SDE samplers
variations  A1111's initial noise: variation seeds, seed resize, a second seed for the steps
seeds       how each program reads a seed
scheduler_config  what a checkpoint's scheduler_config.json says
space       how a network was trained: variance-preserving or by flow matching
ramps       noise levels between two ends
schedule    the noise levels of one run, and the timestep of each
levels      all noise levels of a run, as other programs have them
programs    schedules as A1111 and ComfyUI make them
flow        the same for flow matching
step        what a sampler is handed, and what it yields
guidance    how the predictions of several branches become one
keeping     what stays of a picture while the rest is repainted
samplers    the integrators, one function for each row of mlxdiff.catalogue

Everything works in variance-exploding form: latents = x0 + sigma * noise, with noise of unit variance.
"""

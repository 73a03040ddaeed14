"""The mathematics of sampling, which knows no network and no checkpoint layout.

noise       standard normal draws: torch's, CUDA's or MLX's numbers
scheduler   what a checkpoint's scheduler_config.json says
schedule    the noise levels of one run, and what the network is told at each
prediction  a network's output -> denoised latents
guidance    classifier-free guidance, in all of a run or an interval of it, as wrappers of a denoiser
samplers    the integrators

Everything works in variance-exploding form: latents = x0 + sigma * noise, with noise of unit variance.
"""

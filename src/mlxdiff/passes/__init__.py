"""The passes of a picture: its first, one over the enlarged picture (hires fix), and a refiner's.

stages      passes as values: which settings, noise levels and steps each has; computes nothing
scheduling  the noise levels of a pass: the checkpoint's own, or another program's
starting    what a run starts from, and what its pictures tell the network
randomness  the noise of a run
guiding     which guidance a request asks for
branches    the branches of guidance, batched
relay       one run of them: what each starts from, and who denoises in it
enlarging   latents of one pass enlarged for the next
handover    another model that takes over within a run

The loop is StableDiffusion's.
"""

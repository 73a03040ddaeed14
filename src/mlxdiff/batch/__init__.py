"""Many pictures: between the command line, which parses and draws, and the pipeline, which denoises.

work        what a command amounts to: a prompt, a file of prompts, a contact sheet, a sweep; options: what they share
again       many pictures rendered again, with something changed
workload    its batches, their store, and what it leaves to the next process
prompts     a file of prompts to entries; naming: where their pictures go; sweep: the cells of a request that is varied
jobs        entries to jobs, one a picture, and to the batches that are denoised together; essence: what one asks for
models      each opened once, the weights of one at a time in memory
runner      batches to pictures on disk: store.py writes, journal.py remembers, claims.py shares, ranks.py deals
unfinished  what is remembered of a command that has no journal of its own
contact     the sheet that is made of a run's pictures
stream      items that come when they come; encoded_ahead: prompts, before their turn
events      what a runner is asked to do, and what it says has happened
pace        how long pictures take here
sizing      how many images share a batch
render      one batch, a step at a time
recorder    every step of the images under way, for trajectories
projection  latents to small pictures through a linear map, for previews
"""

"""Many pictures: between the command line, which parses and draws, and the pipeline, which denoises.

prompts     a file of prompts to entries; naming: where their pictures go
jobs        entries to jobs, one a picture, and to the groups that share a batch
runner      groups to pictures on disk: store.py writes, journal.py remembers, claims.py shares, ranks.py deals
stream      items that come when they come; ahead: prompts encoded before their turn
sizing      how many images share a batch
render      a request of many images, a batch at a time
recorder    every step of the images under way, for trajectories
projection  latents to small pictures through a linear map, for previews
sweep       one request varied along one or two axes, as the cells of a sheet
"""

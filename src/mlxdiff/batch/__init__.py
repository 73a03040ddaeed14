"""Many pictures: between the command line, which parses and draws, and the pipeline, which denoises.

render      a request of many images, a batch at a time
recorder    every step of the images under way, for trajectories
projection  latents to small pictures through a linear map, for previews
sweep       one request varied along one or two axes, as the cells of a sheet
"""

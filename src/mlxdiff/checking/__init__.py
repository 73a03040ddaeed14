"""Whether pictures on disk are sound and say the truth, and whether they come out the same again.

fault     what can be wrong, and the kinds
walk      the files below folders, and what unfinished runs left there
reading   a file that must not change while it is read; its hash
png_file  every byte of a PNG or APNG file, in little memory; rows: the lines of its pixels
marked    the parts of JPEG, WebP and GIF files, to their last byte
pixels    one of these, and its pixels through Pillow
saying    what a picture says of itself: JSON, A1111's text, size, files that it names, provenance
beside    latents and trajectories
ledger    what journals say, beside what is there
picture   all of it for one file
folder    all files, on several cores, in order
sample    some of the pictures, always the same ones
again     renders them again and compares

Knows nothing of terminals: it yields what was found. Files may be hostile: none takes for ever or fills the memory.
"""

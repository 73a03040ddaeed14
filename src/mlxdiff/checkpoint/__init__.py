"""Files on disk to weights in a module: which files, what they hold, under which names, and strictly.

It is handed the modules it fills and imports none.
"""

"""The prompt shell: `mlxdiff generate` on a terminal, without a prompt. A line is a prompt, or a command: `/steps 20`.

session.py     what a line does, and the loop; the models stay loaded
commands.py    the commands as a table
state.py       what holds for later lines, as a value: settings, output, wildcards, preview
rendering.py   one line through the runner, stopped by Ctrl-C without an end of the shell
reading.py     a line from the terminal: editing, pasted blocks, control characters
terminal.py    hides what is typed while a line is done
completion.py  what Tab offers, as a function of the line
history.py     lines of this shell and of earlier ones, in a private file
"""

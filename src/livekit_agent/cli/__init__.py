"""The command line: rendering, exit codes, nothing else.  What it does, a program can do without it.

Layer 6; needs the ``[cli]`` extra.  The only place of the package that prints.
"""

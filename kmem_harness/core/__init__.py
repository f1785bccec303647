"""The emulated controller: counters, memcgs, their files and the kernels' differences.

Nothing is imported here: a command line that names an error needs no memcg.
"""

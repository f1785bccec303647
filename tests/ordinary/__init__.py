"""Ordinary programs do the same in a box as outside of it: see ``table.py`` for which, ``ways.py`` for how."""

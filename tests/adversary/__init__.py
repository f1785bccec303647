"""Programs that try to get past their limit, or to starve or crash what enforces it.

Each is a C program in ``programs`` and an entry of ``roster.py``, which says what it tries, what it
makes and what is promised. What it makes is counted from outside, by ``counting.py``.
"""

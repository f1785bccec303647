"""Faults at random, in the middle of bombs: the promise is kept, and nothing is left."""

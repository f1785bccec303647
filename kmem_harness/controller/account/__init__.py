"""The books of one box: what it was charged, holds and was refused, and what is told of it."""

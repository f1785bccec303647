"""Fault rules and sweeps: which call shall fail, counted over a whole container, and what then."""

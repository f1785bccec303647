"""Let people in: the commands, the run they start, and what it shows."""

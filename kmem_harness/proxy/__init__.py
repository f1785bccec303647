"""A proxy before an engine's API, which gives kernel memory back to every client of it."""

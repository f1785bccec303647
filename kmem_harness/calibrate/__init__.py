"""Measure what kernel objects cost on this host's kernel, and hold the emulation against it."""

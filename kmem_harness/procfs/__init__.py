"""Read what the kernel tells of processes, mostly below /proc. Intercepts and decides nothing."""

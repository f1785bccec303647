"""Route a box's system calls to a supervisor: the shim, the filter, notifications, the census."""

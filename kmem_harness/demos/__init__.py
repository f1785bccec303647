"""The demos and their workloads. Each is bounded in time by itself."""

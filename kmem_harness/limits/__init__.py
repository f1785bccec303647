"""Find limits: the one search that sweeps, experiments and services share."""

"""systemd itself as the oracle: it runs as the first process of namespaces of its own, beside us."""

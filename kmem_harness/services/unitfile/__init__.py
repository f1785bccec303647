"""Read unit files as systemd does: syntax, values, names, and what each setting means."""

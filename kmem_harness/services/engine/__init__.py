"""Run units as systemd does: jobs and transactions, services and the processes in their boxes."""

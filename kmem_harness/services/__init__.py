"""Run systemd's unit files in boxes, under a slice tree of memcgs, without systemd and without root."""

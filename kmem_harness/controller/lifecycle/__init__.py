"""A box from its handshake to the end of its last task."""

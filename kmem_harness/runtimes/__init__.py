"""Start and end what runs in a box: locally, or in a container engine."""

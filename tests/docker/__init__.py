"""What the Docker runtime promises, on a real engine."""

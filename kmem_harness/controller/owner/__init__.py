"""What runs in the owner's process: start a controller, and talk to it."""

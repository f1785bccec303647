"""Find out what is alive: one module for each part of a census, and when it is taken."""

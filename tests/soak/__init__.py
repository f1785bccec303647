"""One controller under calls of every kind for an hour: it grows by nothing and slows down by nothing."""

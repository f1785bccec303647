"""From a trapped call to its answer: prices, the gate, what is lent to the fast path, fault rules."""

"""What kernel objects cost, by emulated kernel, and where each number comes from."""

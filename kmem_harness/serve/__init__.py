"""A standing session: accounts for the containers of any engine, whoever starts them."""

"""A corpus that changes: what its files look like, what they hold, and what a feature set lacks of them."""

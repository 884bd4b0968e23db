"""Which channels go, and a really smaller network without them."""

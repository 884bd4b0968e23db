"""Ways to a device that runs Python: what travels there, how a worker is started there, and what can go wrong."""

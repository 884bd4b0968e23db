"""The share of channels of every block, searched for."""

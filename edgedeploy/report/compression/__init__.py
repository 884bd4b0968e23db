"""A compression told: the table of its rungs, its plot, its page."""

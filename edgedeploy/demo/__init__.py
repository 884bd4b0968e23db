"""A demonstration that needs no download: synthetic aerial scenes, and the training of a detector."""

"""What samples say, and how surely: percentiles, intervals, what a series does over time, ratios of two. Numpy only."""

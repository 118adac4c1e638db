"""Money and GPU time: integers that add up to the bill."""

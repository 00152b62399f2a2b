"""Discrete units: the number of the nearest cluster of each frame, under any layer of any upstream."""

"""Upstreams that weight files describe: settings, weights, and where both come from."""

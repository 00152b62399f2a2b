"""How fast this machine can be, and how fast an upstream is on it."""

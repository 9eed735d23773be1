"""Commands about the code itself: what it needs, how fast it is, what it survives."""

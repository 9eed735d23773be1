"""Meshes and the one table of sharding rules."""

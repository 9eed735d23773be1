"""The training loop and what it stands on: state, step, optimizer, checkpoints, metrics."""

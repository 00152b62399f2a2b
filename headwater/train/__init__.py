"""The one training loop, the task contract, checkpoints, distribution."""

"""Hidden states out of somebody else's forward pass."""

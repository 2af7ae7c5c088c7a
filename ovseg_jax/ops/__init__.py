"""Array operations that networks, losses and evaluation share."""

"""What a run needs, whatever it trains: checkpoints, the lock on its folder, and requests to stop it."""

"""How a network lies on the processes that train it: whole on each of them, or in shards."""

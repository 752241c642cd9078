"""pydrbd-sbd: stops a node that must not write any more. It imports nothing of pydrbd and outlives it."""

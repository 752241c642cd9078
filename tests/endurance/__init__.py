"""Random endurance: a kernel and pydrbd as a pair, drawn operations, and comparisons at each quiet point.

`model.py` is what is known of the pair, `operations.py` the table of what may happen to it and when: both are pure.
`expected.py` knows what the device may hold. `player.py` carries the operations out on real nodes, `__main__.py` is the
command (`make endurance`).
"""

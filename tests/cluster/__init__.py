"""A Pacemaker cluster of machines with kernels of their own, followed from docs/cluster.md."""

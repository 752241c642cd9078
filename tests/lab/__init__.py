"""Real kernels as processes of this machine (user-mode Linux): guests, their network, their disks.

Start reading at `lab.py`. `guest.py` is one machine, `guest_init.py` what runs in it first, `network.py` the wires,
`names.py` how nothing is left behind; `nodes.py` is DRBD in a guest (`kernel_node.py`) or beside it
(`pydrbd_node.py`), `load.py` what both are made to read and write. `python -m tests.lab` is for people.
"""

"""pydrbd from Python: run a node in a Trio program, or control one that runs elsewhere on this machine.

Everything here is to be had as `pydrbd.NAME`; docs/examples has programs. What is not here is not promised.
"""

from pydrbd.api.remote import Remote
from pydrbd.api.resource import Resource
from pydrbd.api.running import Node, open_node
from pydrbd.api.status import Status, VolumeStatus

__all__ = ["Node", "Remote", "Resource", "Status", "VolumeStatus", "open_node"]

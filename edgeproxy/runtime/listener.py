"""One listener of the running program: its sockets' acceptors, and what its connections share.

A reload changes it in place; a listener that is retired stops accepting and drains. The sockets belong to the registry,
so that an address can go from one listener to another without a moment of refusal.
"""
from __future__ import annotations

import logging

_log = logging.getLogger("edgeproxy")

"""Sockets and time: the lowest layer that touches the system. Everything below it is pure."""

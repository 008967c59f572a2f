"""HTTP on the wire, without I/O: bytes in, values out.

Rule of this package: no asyncio, socket, ssl, time, random or logging. Above it nobody scans bytes.
"""

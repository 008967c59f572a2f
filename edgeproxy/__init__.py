"""edgeproxy: a standalone L4/L7 reverse proxy. Only the version lives here."""
__version__ = "0.1.0"

"""The running program: start, reload, drain, stop, and what it writes about itself."""

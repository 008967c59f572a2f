"""The pieces of the warm path, one by one."""

"""The configuration: its model, how it is read, and what is said about it."""

"""The measuring rig. Not part of the installed package."""

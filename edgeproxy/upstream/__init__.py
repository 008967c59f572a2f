"""The side of the endpoints: dialling, channels and their pools, and services, which choose among endpoints."""

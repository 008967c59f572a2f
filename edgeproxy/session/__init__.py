"""Client connections: accepting them, relaying bytes (tcp), and exchanging requests and responses (http)."""

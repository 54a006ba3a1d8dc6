"""What is trained: networks, loss terms per player, validation."""

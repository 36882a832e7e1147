"""What is trained, saved and loaded: networks, their config, and how they are used."""

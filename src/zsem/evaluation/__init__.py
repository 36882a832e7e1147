"""Protocols that need several rooms: what is measured of a trained model, in which order, on which images."""

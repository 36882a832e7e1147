"""Layers and networks. No diffusion mathematics."""

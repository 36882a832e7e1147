"""Editing a frozen diffusion model in its own semantic space: the bottleneck h of its U-Net (Asyrp, 2210.10960)."""

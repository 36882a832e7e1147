"""zsem: images as codes that people can read, edit and decode, with diffusion models."""

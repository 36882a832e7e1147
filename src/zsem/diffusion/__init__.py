"""The mathematics of diffusion: tensors in, tensors out. No layers, no files, no progress bars."""

"""What codes mean: probes, and what is built on them."""

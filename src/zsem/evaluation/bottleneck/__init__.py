"""The study of h-space: every way to edit in the bottleneck on one set of faces, and what its shifts are like."""

"""One loop for every Objective: EMA, checkpoints, resume, logs, presets."""

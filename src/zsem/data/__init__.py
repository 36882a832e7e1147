"""Images in, pixels out: folders and archives, built-in sets, batches, picture files. No networks."""

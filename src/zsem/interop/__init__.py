"""Foreign formats: the only room that knows how other projects store their models."""

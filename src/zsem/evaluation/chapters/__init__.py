"""The chapters of `zsem evaluate`, a file for each subject."""

"""Data sets: one file each, from its authors' folder (or from nothing) to a manifest."""

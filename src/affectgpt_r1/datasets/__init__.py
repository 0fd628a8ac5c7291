"""Data sets, from their authors' folders (or, for the demo, from nothing) to manifests."""

"""Data sets, from their authors' folders to manifests."""

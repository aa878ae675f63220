"""mountd: a declarative mount manager for Linux guests."""

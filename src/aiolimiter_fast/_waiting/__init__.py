"""The only files that know how to wait: one per kind of waiting."""

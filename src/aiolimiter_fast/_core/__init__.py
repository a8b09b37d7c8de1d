"""The arithmetic: headers for the extension, and what of it the twin needs in Python."""

"""The methods, one family a file, and the registry that finds them by name."""

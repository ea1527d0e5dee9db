"""What ``check`` and ``doctor`` look at."""

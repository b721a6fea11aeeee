"""Static figures and tables."""

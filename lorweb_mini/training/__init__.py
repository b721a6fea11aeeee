"""One training loop, and a recipe for each part."""

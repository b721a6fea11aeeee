"""The same method at its real scale, on FLUX.1-Kontext and the released checkpoint."""

"""The data of the course: pictures, edits, relations between them, and their latents."""

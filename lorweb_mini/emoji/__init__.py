"""What the course looks at: pictures, edits, relations between them, and their latents."""

"""The frozen parts: autoencoder, base, picture encoders, sentence vectors, and their weight folders."""

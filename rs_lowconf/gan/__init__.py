"""The class-conditional multispectral generator, its discriminator and their training."""

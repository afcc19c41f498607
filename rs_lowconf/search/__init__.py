"""Search of the latent space for realistic tiles that the target is unsure of."""

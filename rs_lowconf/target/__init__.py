"""The model under test: trained here, or loaded from elsewhere behind the same protocol."""

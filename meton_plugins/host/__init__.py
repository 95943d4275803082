"""How a plugin meets its host. Knows nothing of fine-tuning."""

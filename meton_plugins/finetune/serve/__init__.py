"""From an adapter to the model in the slot: Modelfile, Ollama server, registering, swaps and their history."""

"""GGUF files: look inside, render chats, make training rows, merge an adapter. Needs no engine."""

"""Training data as others write it: chats read from files, and written for other trainers."""

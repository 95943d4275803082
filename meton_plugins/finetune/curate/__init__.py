"""From the library to a frozen dataset."""

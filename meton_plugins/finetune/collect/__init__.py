"""From conversations to examples in the library."""

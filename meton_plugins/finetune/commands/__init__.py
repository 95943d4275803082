"""The slash commands, one module each: parse, call one service, render."""

"""llama.cpp as a training engine: the library, its binding, and the child process in which it always runs."""

"""The machine a command runs on: processes, signals, memory, cores."""

"""What a run will be, said before it starts: settings, steps and memory."""

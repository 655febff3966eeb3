"""How a density is learned: moments, seeding, EM, and the modules that follow a stream of batches."""

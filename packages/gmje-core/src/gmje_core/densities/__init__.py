"""What a density is: covariances in four forms, Gaussian mixtures, and joint densities of two views; all immutable."""

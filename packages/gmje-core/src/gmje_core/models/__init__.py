"""Networks, their configuration, and the model that joins them with a criterion."""

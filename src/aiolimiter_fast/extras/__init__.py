"""HTTP clients that obey a limiter: one module for each client, which is imported there and nowhere else."""

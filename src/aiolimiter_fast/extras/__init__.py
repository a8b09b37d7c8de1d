"""HTTP clients that obey a limiter, or a whole stack of them.

One module for each client, which is imported there and nowhere else.
"""

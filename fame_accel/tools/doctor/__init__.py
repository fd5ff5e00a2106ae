"""What the library can run on this machine, whether its results are right here, and how to fix what is wrong."""

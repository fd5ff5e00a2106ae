"""What this machine can run of the library, whether its results are right here, and what to do about what is amiss."""

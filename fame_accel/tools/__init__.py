"""What the commands doctor, plan and tune do; it needs torch alone."""

"""The operation: layouts, modulations, plans, the public operator and its specification."""

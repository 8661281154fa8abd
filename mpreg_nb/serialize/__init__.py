"""Values, functions, classes and exceptions to bytes and back."""

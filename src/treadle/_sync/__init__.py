"""What threads share: places to wait."""

"""Parts that several recipes use."""

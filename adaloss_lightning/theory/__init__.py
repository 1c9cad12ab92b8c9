"""The quantities of the theory, as pure functions of torch tensors."""

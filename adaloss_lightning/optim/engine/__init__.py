"""Engine of a step: the wrapper around a base, its fused kernels, vectors of groups, the mean over ranks."""

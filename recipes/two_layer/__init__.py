"""The paper's two-layer ReLU network (Section 4) and what its theory says about how it trains."""
